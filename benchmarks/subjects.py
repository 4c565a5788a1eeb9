"""What is measured: the real daemon in a home of its own, and the respawner in C.

Both keep the same children, which write down when they began to run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SOURCES = Path(__file__).parent
PATIENCE = 120.0
"""Seconds after which a measurement is given up."""


def clock() -> int:
    """Nanoseconds on the clock that the children read too."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def build(folder: Path) -> None:
    """Compile the C programs."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("no C compiler: install one as `cc` (Debian: apt-get install gcc; macOS: xcode-select --install)")
    for name in ("child", "respawner"):
        subprocess.run([compiler, "-O2", "-o", folder / name, SOURCES / f"{name}.c"], check=True)


@dataclass(frozen=True, slots=True)
class Start:
    """One life of one child. ``at`` is nanoseconds."""

    index: int
    pid: int
    at: int


@dataclass
class Starts:
    """What the children of one subject wrote down."""

    path: Path
    latest: dict[int, Start] = field(default_factory=dict)
    _read: int = 0

    def refresh(self) -> None:
        """Read what is new."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
            complete = new[: new.rfind(b"\n") + 1]
            self._read += len(complete)
            for line in complete.splitlines():
                start = Start(*map(int, line.split()))
                self.latest[start.index] = start

    def wait_all(self, count: int) -> int:
        """Wait until all children have started once; the instant of the last start."""
        wait_until(lambda: len(self.latest) == count, self.refresh)
        return max(start.at for start in self.latest.values())

    def wait_next(self, last: Start) -> Start:
        """Wait for the next life of a child."""
        wait_until(lambda: self.latest[last.index].pid != last.pid, self.refresh)
        return self.latest[last.index]


def wait_until(condition: Callable[[], bool], refresh: Callable[[], None]) -> None:
    """Look every few milliseconds: the instants themselves are taken by the children."""
    deadline = time.monotonic() + PATIENCE
    refresh()
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"given up after {PATIENCE:.0f} s")
        time.sleep(0.002)
        refresh()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A supervisor with its children."""

    name: str
    process: psutil.Process
    starts: Starts
    began_at: int


@contextlib.contextmanager
def respawner(folder: Path, count: int) -> Iterator[Subject]:
    """The respawner in C with ``count`` children."""
    starts = Starts(folder / f"respawner.{clock()}")
    began_at = clock()
    process = subprocess.Popen([folder / "respawner", str(count), folder / "child", starts.path])
    try:
        yield Subject(name="C", process=psutil.Process(process.pid), starts=starts, began_at=began_at)
    finally:
        process.kill()
        process.wait(PATIENCE)
        starts.refresh()
        for start in starts.latest.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(start.pid, signal.SIGKILL)


@contextlib.contextmanager
def daemon(folder: Path, components: Mapping[str, str], starts: Starts) -> Iterator[Subject]:
    """The real daemon. ``components`` are the TOML tables' bodies by name; they go by ``starts``."""
    home = folder / f"home.{clock()}"
    home.mkdir(mode=0o700)
    tables = [f"[component.{name}]\n{body}\n" for name, body in components.items()]
    config = home / "stigmer.toml"
    config.write_text(RESTARTS_AT_ONCE + "\n".join(tables))
    config.chmod(0o600)
    began_at = clock()
    with (folder / f"{home.name}.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stigmerd", "--home", home], stdout=output, stderr=output
        )
    try:
        yield Subject(name="stigmerd", process=psutil.Process(process.pid), starts=starts, began_at=began_at)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


RESTARTS_AT_ONCE = """
[defaults.restart]
initial_backoff = 0
max_restarts = 1000000
window = "1s"

"""


@contextlib.contextmanager
def daemon_of_children(folder: Path, count: int, probes: tuple[str, ...] = ("",)) -> Iterator[Subject]:
    """The daemon with ``count`` children, which take turns with ``probes``, lines of TOML."""
    starts = Starts(folder / f"stigmerd.{clock()}")
    components = {
        f"child-{i}": f'command = ["{folder}/child", "{i}", "{starts.path}"]\n{probes[i % len(probes)]}'
        for i in range(count)
    }
    with daemon(folder, components, starts) as subject:
        yield subject


def home_of(subject: Subject) -> Path:
    """The home of a running daemon."""
    return Path(subject.process.cmdline()[-1])


class Channel:
    """The least client of the control channel: what a request costs without a program around it."""

    def __init__(self, home: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.fspath(home / "run" / "stigmerd.sock"))
        self._file = self._socket.makefile("rwb")

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, method: str) -> Any:  # noqa: ANN401  (JSON is what it is)
        """One request, one answer."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
        self._file.write(json.dumps(request).encode() + b"\n")
        self._file.flush()
        answer = json.loads(self._file.readline())
        if "error" in answer:
            sys.exit(f"{method}: {answer['error']}")
        return answer["result"]
