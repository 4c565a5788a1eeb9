"""How long an operator waits: a request on the control channel, and the whole command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.subjects import Channel, Subject, daemon_of_children, home_of
from benchmarks.table import Row

BARE = [sys.executable, "-c", "import cyclopts, rich.console, rich.table"]
"""What the command cannot do without."""


def measure(folder: Path, counts: tuple[int, ...], rounds: int) -> list[Row]:
    """The request and the command with ``counts`` children, the command beside its bare imports."""
    rows = []
    for count in counts:
        with daemon_of_children(folder, count) as subject:
            subject.starts.wait_all(count)
            time.sleep(1)
            command = status_command(subject)
            rows.append(_request(home_of(subject), count, rounds))
            pairs = [(milliseconds_of(command), milliseconds_of(BARE)) for _ in range(max(rounds // 5, 5))]
            ours, limit = (statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append(Row(name=f"status command, {count}", unit="ms", ours=ours, limit=limit))
    return rows


def _request(home: Path, count: int, rounds: int) -> Row:
    times = []
    with Channel(home) as channel:
        for _ in range(rounds):
            began = time.perf_counter()
            channel.ask("status")
            times.append(1e3 * (time.perf_counter() - began))
    return Row(name=f"status request, {count}", unit="ms", ours=statistics.median(times))


def status_command(subject: Subject) -> list[str]:
    """What an operator types."""
    stigmer = str(Path(sys.executable).with_name("stigmer"))
    return [stigmer, "server", "status", "--home", str(home_of(subject))]


def milliseconds_of(command: Sequence[str]) -> float:
    """How long one run takes."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return 1e3 * (time.perf_counter() - began)
