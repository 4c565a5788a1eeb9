"""``stop`` without a daemon: the end of what a dead one left, only what provably is of this home.

It happens in the order and in the way that the daemon would have chosen, as far as the state tells: dependents
first, each with its own stop signal and grace. Hooks (``pre_stop``) are not run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import msgspec

from stigmerd.adapters.disk.store import Home, read_state
from stigmerd.cli.errors import FAILED, OK
from stigmerd.cli.escape import escape_line
from stigmerd.cli.names import check_names_in_files
from stigmerd.cli.reach import Answer
from stigmerd.core.order import stop_waves
from stigmerd.core.record import ComponentRecord
from stigmerd.core.spec import StopPolicy

ENGINE_REQUESTS = 8
"""Containers that are stopped at the same time."""


def stop_without_daemon(
    place: Home, names: Sequence[str], cap: float | None, *, quiet: bool, as_json: bool
) -> int:
    """End what a dead daemon left behind. ``cap`` bounds every grace, in seconds.

    Raises:
        CommandError: a name that no file knows and nothing that runs has.
    """
    records = read_state(place).components
    _check(place, names, records)
    ended = _end_all(place, names, records, cap)
    is_done = all(answer.ok for answer in ended)
    if is_done and records:
        _note_stopped(place, names)
    if as_json:
        sys.stdout.write(json.dumps({"components": [msgspec.to_builtins(answer) for answer in ended]}) + "\n")
    for answer in ended:
        if not as_json and (not answer.ok or not quiet):
            (sys.stdout if answer.ok else sys.stderr).write(f"{escape_line(answer.message)}\n")
    if names and not as_json:
        for told in _dependents_left(place, names, records):
            sys.stderr.write(f"{escape_line(told)}\n")
    if is_done and not quiet and not as_json:
        what = f"nothing of {', '.join(names)} is up" if names else "nothing of it is up"
        sys.stdout.write(f"The daemon is not running: {what} (home {escape_line(place.path)}).\n")
    return OK if is_done else FAILED


def _check(place: Home, names: Sequence[str], records: Mapping[str, ComponentRecord]) -> None:
    """Refuse unknown names; where the state was lost, what runs still has its own."""
    from stigmerd.adapters.processes.identity import find_ours

    if not set(names) <= set(records):
        running = (found.component for found in find_ours(place.path))
        check_names_in_files(place, names, dict.fromkeys([*records, *running]))


def _dependents_left(place: Home, names: Sequence[str], records: Mapping[str, ComponentRecord]) -> Iterator[str]:
    """A sentence about each component that runs on and needs one of those that were stopped."""
    from stigmerd.adapters.processes.identity import find_ours

    alive = {found.component for found in find_ours(place.path)}
    for name, record in records.items():
        needed = [other for other in record.shown.depends_on if other in names]
        if name in alive and name not in names and needed:
            yield f"{name} depends on {', '.join(needed)} and runs on"


def _note_stopped(place: Home, names: Sequence[str]) -> None:
    from stigmerd.adapters.disk.store import HomeError, note_stopped

    with suppress(HomeError):  # a daemon was started meanwhile, and sees for itself
        note_stopped(place, names)


def _end_all(
    place: Home, names: Sequence[str], records: Mapping[str, ComponentRecord], cap: float | None
) -> list[Answer]:
    """End wave after wave, and at last what no record names."""
    hunt = _Hunt(place, records, cap)
    wanted = set(names) or set(records)
    for wave in stop_waves({name: record.shown.depends_on for name, record in records.items()}):
        if chosen := wave & wanted:
            hunt.end(chosen)
    if unknown := set(names) - set(records):
        hunt.end_processes(unknown)
    elif not names:
        hunt.end_processes(None)
    return hunt.answers


def _policy(record: ComponentRecord, cap: float | None) -> StopPolicy:
    return StopPolicy(signal=record.stop_signal, grace=record.grace if cap is None else min(record.grace, cap))


class _Hunt:
    """Ends what it is told to, each life once, whether that goes well or not."""

    def __init__(self, place: Home, records: Mapping[str, ComponentRecord], cap: float | None) -> None:
        self.answers: list[Answer] = []
        self._place = place
        self._records = records
        self._policies = {name: _policy(record, cap) for name, record in records.items()}
        self._default = StopPolicy().grace if cap is None else cap
        self._tried: set[str] = set()
        """Nonces of lives that could not be ended."""

    def end(self, names: Collection[str]) -> None:
        """End these components; containers while processes have their grace."""
        records = (self._records[name] for name in names)
        boxed = [record for record in records if record.identity and record.identity.container_id]
        with ThreadPoolExecutor(ENGINE_REQUESTS) as threads:
            ends = [threads.submit(_end_container, self._place, one, self._policies[one.name]) for one in boxed]
            self.end_processes(names)
            self.answers += [answer for end in ends if (answer := end.result()) is not None]

    def end_processes(self, names: Collection[str] | None) -> None:
        """End what is left of processes, of these components or of any, and tell of each life how that went."""
        from stigmerd.adapters.processes.identity import end_strays_blocking

        spared = self._tried | (self._lives_of_others(names) if names is not None else set())
        leaders = {name: record.identity for name, record in self._records.items() if record.identity is not None}
        for stray in end_strays_blocking(
            self._place.path, self._default, keep=spared, policies=self._policies, leaders=leaders
        ):
            pids = ", ".join(map(str, stray.pids))
            if stray.gone:
                self.answers.append(_gone(stray.component, f"Ended {stray.component}, left by a dead daemon ({pids})"))
                continue
            said = f"{stray.component} cannot be killed. Still alive: {pids}. Log: {_log(self._place, stray.component)}"
            self.answers.append(Answer(name=stray.component, state="failed", message=said, survivors=stray.pids))
            self._tried.add(stray.nonce)

    def _lives_of_others(self, names: Collection[str]) -> set[str]:
        """The lives that are not to be touched, by their nonces, from the state and from what runs."""
        from stigmerd.adapters.processes.identity import find_ours

        recorded = {r.identity.nonce for name, r in self._records.items() if r.identity and name not in names}
        return recorded | {found.nonce for found in find_ours(self._place.path) if found.component not in names}


def _log(place: Home, name: str) -> str:
    return os.path.join(place.logs, f"{name}.log")


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
        said = f"{said.rstrip('.')}. Log: {_log(place, record.name)}"
        return Answer(name=record.name, state="failed", message=said)
    return _gone(record.name, f"Stopped the container of {record.name}, left by a dead daemon")
