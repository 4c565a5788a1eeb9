"""From the start of the supervisor's program to the first instruction of its last child."""

from __future__ import annotations

import statistics
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.subjects import Subject, daemon_of_children, respawner
from benchmarks.table import Row


def measure(folder: Path, counts: tuple[int, ...], rounds: int) -> list[Row]:
    """The median of a few starts of ``counts`` children."""
    rows = []
    for count in counts:
        ours, limit = [], []
        for _ in range(rounds):
            limit.append(_seconds(respawner(folder, count), count))
            ours.append(_seconds(daemon_of_children(folder, count), count))
        rows.append(
            Row(
                name=f"start of {count}",
                unit="s",
                ours=statistics.median(ours),
                limit=statistics.median(limit),
            )
        )
    return rows


def _seconds(running: AbstractContextManager[Subject], count: int) -> float:
    with running as subject:
        return (subject.starts.wait_all(count) - subject.began_at) / 1e9
