"""What the daemon uses while nothing happens: processor and memory, with and without probes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.subjects import Subject, daemon_of_children
from benchmarks.table import Row

MIB = 1024 * 1024


def measure(folder: Path, counts: tuple[int, ...], seconds: float) -> list[Row]:
    """Per number of children: per cent of one processor, and resident memory."""
    rows = []
    with _listener() as port:
        kinds = {
            "no probes": ("",),
            "probes": (
                "liveness = { process = {} }",
                f'liveness = {{ tcp = {{ address = "127.0.0.1:{port}" }} }}',
                'liveness = { exec = { command = ["true"] } }',
            ),
        }
        for count in counts:
            for kind, probes in kinds.items():
                with daemon_of_children(folder, count, probes) as subject:
                    subject.starts.wait_all(count)
                    rows += _at_rest(subject, f"{count}, {kind}", seconds)
    return rows


def _at_rest(subject: Subject, name: str, seconds: float) -> list[Row]:
    time.sleep(11)  # liveness probes are spread over their first period, which is 10 s
    before = _processor_seconds(subject)
    time.sleep(seconds)
    used = _processor_seconds(subject) - before
    memory = subject.process.memory_info().rss / MIB
    helper = sum(child.memory_info().rss for child in subject.process.children() if is_spawner(child)) / MIB
    return [
        Row(name=f"idle processor, {name}", unit="%", ours=100 * used / seconds),
        Row(name=f"memory, {name}", unit="MiB", ours=memory, note=f"and {helper:.1f} of its spawner"),
    ]


def is_spawner(process: psutil.Process) -> bool:
    """Whether a child of the daemon is no component of it."""
    try:
        return any("spawner.main" in word for word in process.cmdline())
    except psutil.NoSuchProcess:  # a probe's command
        return False


def _processor_seconds(subject: Subject) -> float:
    """Of the daemon and of the exec probes that it has reaped."""
    times = subject.process.cpu_times()
    own: float = times.user + times.system
    reaped: float = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return own + reaped


@contextmanager
def _listener() -> Iterator[int]:
    """A port that the kernel opens connections on for us, and nobody reads."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        server.setblocking(False)
        yield server.getsockname()[1]
