"""From the SIGKILL of a child to the first instruction of the next."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from pathlib import Path

from benchmarks.subjects import Start, Subject, clock, daemon_of_children, respawner
from benchmarks.table import Row

PAUSE = 0.02
"""Seconds between two kills, so that each finds its subject at rest."""


def measure(folder: Path, counts: tuple[int, ...], rounds: int) -> list[Row]:
    """One child at a time, and all at once, of ``counts`` children."""
    rows = []
    for count in counts:
        with respawner(folder, count) as limit, daemon_of_children(folder, count) as ours:
            for subject in (limit, ours):
                subject.starts.wait_all(count)
            time.sleep(1)
            rows.append(_one_at_a_time(limit, ours, count, rounds))
            if count > 1:
                rows.append(_all_at_once(limit, ours, count, max(rounds // 20, 3)))
    return rows


def _one_at_a_time(limit: Subject, ours: Subject, count: int, rounds: int) -> Row:
    """The subjects take turns, so that what the machine does meanwhile hits both."""
    times: dict[str, list[float]] = {limit.name: [], ours.name: []}
    for number in range(rounds):
        for subject in (limit, ours):
            times[subject.name].append(kill_once(subject, number % count))
    return _row(f"respawn, 1 of {count}", limit, ours, times)


def kill_once(subject: Subject, index: int) -> float:
    """Kill one child, and return the milliseconds until its next life began."""
    last = subject.starts.latest[index]
    killed_at = _kill(last)
    took = _milliseconds(killed_at, subject.starts.wait_next(last))
    time.sleep(PAUSE)
    return took


def _all_at_once(limit: Subject, ours: Subject, count: int, rounds: int) -> Row:
    times: dict[str, list[float]] = {limit.name: [], ours.name: []}
    for _ in range(rounds):
        for subject in (limit, ours):
            lasts = list(subject.starts.latest.values())
            killed = [(_kill(last), last) for last in lasts]
            times[subject.name] += [_milliseconds(at, subject.starts.wait_next(last)) for at, last in killed]
            time.sleep(0.5)
    return _row(f"respawn, {count} of {count} at once", limit, ours, times)


def _kill(last: Start) -> int:
    at = clock()
    with contextlib.suppress(ProcessLookupError):
        os.kill(last.pid, signal.SIGKILL)
    return at


def _milliseconds(killed_at: int, start: Start) -> float:
    return (start.at - killed_at) / 1e6


def _row(name: str, limit: Subject, ours: Subject, times: dict[str, list[float]]) -> Row:
    ours_ms, limit_ms = statistics.median(times[ours.name]), statistics.median(times[limit.name])
    slow = statistics.quantiles(times[ours.name], n=100)[98] if len(times[ours.name]) > 1 else ours_ms
    return Row(name=name, unit="ms", ours=ours_ms, limit=limit_ms, note=f"99 % within {slow:.1f} ms")
