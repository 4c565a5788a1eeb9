"""What is true of a home at any instant, and what of it once nothing runs any more.

The checks look at files and processes, and take nobody's word for it.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stigmerd.adapters.processes import cgroup
from tests.system.daemons import Stack

MOMENT = 20.0
"""Seconds in which what happened has to be seen, on a machine that is busy."""

History = list[dict[str, Any]]

EXPECTED_FILES = (
    "stigmer.toml",
    "run/launch.lock",
    "run/stigmerd.lock",
    "run/stigmerd.sock",
    "state/state.json*",
    "state/changes.jsonl*",
    "state/events.jsonl*",
    "logs/*.log",
    "logs/*.log.[0-9]*",
    "logs/.*.log.ledger",
)


class DoubleLifeError(Exception):
    """A component has two lives: no moment makes that good."""


def check_history(entries: History, alive: Mapping[str, int]) -> None:
    """Nothing is missing, doubled or out of order. ``alive``: the life that each component has now."""
    numbers = [entry["seq"] for entry in entries]
    assert numbers == list(range(1, len(numbers) + 1)), f"gaps or repeats in seq: {brief(entries)}"
    for name in sorted({entry["component"] for entry in entries} - {None}):
        check_lives(name, [entry for entry in entries if entry["component"] == name], alive.get(name))


def check_lives(name: str, entries: History, alive: int | None) -> None:
    """Each life begins once and ends once, and the next one begins only after that."""
    open_life: int | None = None
    last = 0
    for entry in entries:
        event, life = entry["event"], entry["life"]
        if event in {"starting", "start_failed"}:
            assert open_life is None, f"{name}: life {life} begins while life {open_life} is not over: {brief(entries)}"
            assert life == last + 1, f"{name}: life {life} follows life {last}: {brief(entries)}"
            last = life
            open_life = life if event == "starting" else None
        elif event == "exited":
            assert life == open_life, f"{name}: life {life} ended while the open one is {open_life}: {brief(entries)}"
            open_life = None
    assert open_life == alive, f"{name}: life {open_life} is open in the history, {alive} is alive: {brief(entries)}"


def brief(entries: History) -> str:
    """The end of a history, for a message."""
    return " ".join(f"{e['seq']}:{e['component']}.{e['life']}.{e['event']}" for e in entries[-20:])


def check_one_each(home: Stack) -> dict[str, list[int]]:
    """At most one process of each component. For components that are one process each."""
    found = home.processes()
    if not all(len(pids) <= 1 for pids in found.values()):
        raise DoubleLifeError(f"more than one life: {found}")
    return found


def check_present(home: Stack) -> None:
    """The status, the processes and the history tell the same story, at the latest in a moment: what
    was killed just now may not have been seen yet. At no instant is there more than one of each."""
    deadline = time.monotonic() + MOMENT
    while True:
        try:
            _check_now(home)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            return


def _check_now(home: Stack) -> None:
    components = {document["name"]: document for document in home.call("status")["components"]}
    found = check_one_each(home)
    shown = {name: [document["pid"]] for name, document in components.items() if document["pid"]}
    assert found == shown, f"processes {found}, status {shown}"
    lives = {name: document["life"] for name, document in components.items() if document["pid"]}
    check_history(home.events(), lives)
    for name, document in components.items():
        counted, backed_off = document["restarts"], _backed_off(home.events(name))
        assert document["restarts_in_window"] <= counted <= backed_off, f"{name}: {backed_off} backoffs, {document}"


def _backed_off(entries: History) -> int:
    return len({entry["life"] for entry in entries if entry["event"] == "restarting"})


def check_left_nothing(home: Stack) -> None:
    """After an ordered stop: no process, no leaf, no file that has no business there, every life over."""
    assert home.processes() == {}
    leaves = cgroup.leaves(str(home.home))
    assert not leaves, f"{leaves} were left"
    check_history(home.events(), {})
    for folder, _, names in os.walk(home.home):
        for name in names:
            path = str(Path(folder, name).relative_to(home.home))
            assert any(fnmatch.fnmatch(path, pattern) for pattern in EXPECTED_FILES), f"{path} was left"


@contextmanager
def bystanders(home: Path) -> Iterator[None]:
    """Strangers who must not be touched: one without marks, one of another home with the same names."""
    marks = {"STIGMER_HOME": f"{home}-other", "STIGMER_COMPONENT": "a", "STIGMER_LIFE": "1-0123456789abcdef01234567"}
    strangers = [
        subprocess.Popen(["sleep", "10000"], start_new_session=True, env={**os.environ, **more}) for more in ({}, marks)
    ]
    try:
        yield
        assert [stranger.poll() for stranger in strangers] == [None, None], "a stranger was signalled"
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()
