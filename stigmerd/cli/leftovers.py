"""``stop`` without a daemon: the end of what a dead one left, only what provably is of this home.

It happens in the order and in the way that the daemon would have chosen, as far as the state tells: dependents
first, each with its own stop signal and grace. Hooks (``pre_stop``) are not run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec

from stigmerd.adapters.disk.store import Home, read_state
from stigmerd.cli.errors import FAILED, OK, check_names
from stigmerd.cli.escape import escape_line
from stigmerd.core.order import stop_waves
from stigmerd.core.record import ComponentRecord
from stigmerd.core.spec import StopPolicy

ENGINE_REQUESTS = 8
"""Containers that are stopped at the same time."""


class Answer(msgspec.Struct, frozen=True):
    """What became of one component in an operation."""

    name: str
    state: str = ""
    ok: bool = False
    message: str = ""
    survivors: tuple[int, ...] = ()


def answers_in(result: Mapping[str, Any]) -> list[Answer]:
    """What the daemon says of each component that an operation concerned."""
    return msgspec.convert(result.get("components", []), list[Answer])


def stop_without_daemon(
    place: Home, names: Sequence[str], cap: float | None, *, quiet: bool, as_json: bool
) -> int:
    """End what a dead daemon left behind. ``cap`` bounds every grace, in seconds.

    Raises:
        CommandError: a name that the state does not know.
    """
    records = read_state(place).components
    if names and records:
        check_names(names, list(records))
    ended = list(_end_all(place, names, records, cap))
    is_done = all(answer.ok for answer in ended)
    if is_done and records:
        _note_stopped(place, names)
    if as_json:
        sys.stdout.write(json.dumps({"components": [msgspec.to_builtins(answer) for answer in ended]}) + "\n")
    for answer in ended:
        if not as_json and (not answer.ok or not quiet):
            (sys.stdout if answer.ok else sys.stderr).write(f"{escape_line(answer.message)}\n")
    if is_done and not quiet and not as_json:
        what = f"nothing of {', '.join(names)} is up" if names else "nothing of it is up"
        sys.stdout.write(f"The daemon is not running: {what} (home {escape_line(place.path)}).\n")
    return OK if is_done else FAILED


def _note_stopped(place: Home, names: Sequence[str]) -> None:
    from stigmerd.adapters.disk.store import HomeError, note_stopped

    with suppress(HomeError):  # a daemon was started meanwhile, and sees for itself
        note_stopped(place, names)


def _end_all(
    place: Home, names: Sequence[str], records: Mapping[str, ComponentRecord], cap: float | None
) -> Iterator[Answer]:
    """End wave after wave, and at last what no record names."""
    policies = {name: _policy(record, cap) for name, record in records.items()}
    chosen = {name: record.shown.depends_on for name, record in records.items() if not names or name in names}
    waves = stop_waves(chosen)
    for wave in waves[:-1]:
        yield from _end_wave(place, wave, records, policies, cap)
    last = {*names, *waves[-1]} if waves else set(names)
    yield from _end_wave(place, last if names else (), records, policies, cap)


def _policy(record: ComponentRecord, cap: float | None) -> StopPolicy:
    return StopPolicy(signal=record.stop_signal, grace=record.grace if cap is None else min(record.grace, cap))


def _end_wave(
    place: Home,
    names: Collection[str],
    records: Mapping[str, ComponentRecord],
    policies: Mapping[str, StopPolicy],
    cap: float | None,
) -> Iterator[Answer]:
    """End these, or all that is left of anybody; containers while processes have their grace."""
    left = [
        record
        for name, record in records.items()
        if record.identity and record.identity.container_id and (not names or name in names)
    ]
    with ThreadPoolExecutor(ENGINE_REQUESTS) as threads:
        containers = [threads.submit(_end_container, place, record, policies[record.name]) for record in left]
        yield from _end_processes(place, names, policies, cap)
        yield from (answer for container in containers if (answer := container.result()) is not None)


def _end_processes(
    place: Home, names: Collection[str], policies: Mapping[str, StopPolicy], cap: float | None
) -> Iterator[Answer]:
    """End what is left of processes, and tell of each life how that went."""
    from stigmerd.adapters.processes.identity import end_strays_blocking

    spared = _lives_of_others(place, names) if names else set()
    default = StopPolicy().grace if cap is None else cap
    for stray in end_strays_blocking(place.path, default, keep=spared, policies=policies):
        pids = ", ".join(map(str, stray.pids))
        if stray.gone:
            yield _gone(stray.component, f"Ended {stray.component}, left by a dead daemon ({pids})")
        else:
            said = f"{stray.component} cannot be killed. Still alive: {pids}"
            yield Answer(name=stray.component, state="failed", message=said, survivors=tuple(stray.pids))


def _gone(name: str, said: str) -> Answer:
    return Answer(name=name, state="stopped", ok=True, message=said)


def _end_container(place: Home, record: ComponentRecord, policy: StopPolicy) -> Answer | None:
    """The same for a container that the state names. None where it is gone already."""
    from stigmerd.cli.containers import stop as stop_container
    from stigmerd.engine.ports import EngineUnavailableError

    assert record.identity is not None
    try:
        if not stop_container(place, record.identity, policy):
            return None
    except EngineUnavailableError as exc:
        said = f"{record.name} may still run in its container {record.identity.container_id}: {exc}"
        return Answer(name=record.name, state="failed", message=said)
    return _gone(record.name, f"Stopped the container of {record.name}, left by a dead daemon")


def _lives_of_others(place: Home, names: Collection[str]) -> set[str]:
    """The lives that are not to be touched, by their nonces, from the state and from what runs."""
    from stigmerd.adapters.processes.identity import find_ours

    recorded = {r.identity.nonce for n, r in read_state(place).components.items() if r.identity and n not in names}
    return recorded | {found.nonce for found in find_ours(place.path) if found.component not in names}
