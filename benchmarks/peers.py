"""The same beside other supervisors, as they come: those whose programs are on PATH.

``python3 -m venv peers && peers/bin/pip install supervisor circus``, and then
``PATH="$PWD/peers/bin:$PATH" python -m benchmarks peers``.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.respawn import kill_once
from benchmarks.status import milliseconds_of, status_command
from benchmarks.subjects import PATIENCE, Starts, Subject, clock, daemon_of_children
from benchmarks.table import Row

MIB = 1024 * 1024
COUNT = 100
"""Children of the second measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another supervisor. ``configure`` writes its file for so many children, and returns it."""

    program: str
    configure: Callable[[Path, Path, int], Path]
    status: tuple[str, ...] = ()
    """What shows the state of all its children, before the file's name; () where there is no such thing."""

    @contextlib.contextmanager
    def running(self, folder: Path, count: int) -> Iterator[tuple[Subject, Path]]:
        """The peer with ``count`` children, and its file."""
        starts = Starts(folder / f"{self.program}.{clock()}")
        config = self.configure(folder, starts.path, count)
        began_at = clock()
        quiet = subprocess.DEVNULL
        process = subprocess.Popen([*self.command, config], stdout=quiet, stderr=quiet, cwd=folder)
        try:
            subject = Subject(
                name=self.program, process=psutil.Process(process.pid), starts=starts, began_at=began_at
            )
            starts.wait_all(count)
            yield subject, config
        finally:
            process.terminate()
            process.wait(PATIENCE)

    @property
    def command(self) -> list[str]:
        """How it is started, before the name of its file."""
        return ["supervisord", "-n", "-c"] if self.program == "supervisord" else [self.program]


def _configure_supervisord(folder: Path, starts: Path, count: int) -> Path:
    socket = folder / f"s.{clock()}"
    lines = [
        f"[unix_http_server]\nfile={socket}\n[supervisord]\nlogfile={socket}.log\npidfile={socket}.pid",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        f"[supervisorctl]\nserverurl=unix://{socket}",
    ]
    program = "[program:child-{0}]\ncommand={1}/child {0} {2}\nstartsecs=0\nautorestart=true"
    lines += [program.format(i, folder, starts) for i in range(count)]
    return _write(folder / f"supervisord.{clock()}.conf", lines)


def _configure_circusd(folder: Path, starts: Path, count: int) -> Path:
    place = folder / f"c.{clock()}"
    lines = [f"[circus]\nendpoint = ipc://{place}.e\npubsub_endpoint = ipc://{place}.p"]
    lines += [f"[watcher:child-{i}]\ncmd = {folder}/child {i} {starts}" for i in range(count)]
    return _write(folder / f"circusd.{clock()}.ini", lines)


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


PEERS = (
    Peer(program="supervisord", configure=_configure_supervisord, status=("supervisorctl", "status", "-c")),
    Peer(program="circusd", configure=_configure_circusd),
)


def measure(folder: Path, rounds: int) -> list[Row]:
    """Crash to respawn, memory, and the status command, ours and theirs taking turns."""
    rows = []
    for peer in PEERS:
        if shutil.which(peer.program) is None:
            print(f"{peer.program} is not on PATH: not measured", file=sys.stderr)
            continue
        rows.append(_respawn(peer, folder, rounds))
        rows += _at_rest(peer, folder, rounds)
    return rows


def _respawn(peer: Peer, folder: Path, rounds: int) -> Row:
    with peer.running(folder, 1) as (theirs, _), daemon_of_children(folder, 1) as ours:
        ours.starts.wait_all(1)
        time.sleep(2)
        pairs = [(kill_once(ours, 0), kill_once(theirs, 0)) for _ in range(rounds)]
    return _row(f"respawn, 1 of 1, beside {peer.program}", "ms", pairs)


def _at_rest(peer: Peer, folder: Path, rounds: int) -> list[Row]:
    with peer.running(folder, COUNT) as (theirs, config), daemon_of_children(folder, COUNT) as ours:
        ours.starts.wait_all(COUNT)
        time.sleep(5)
        pairs = [(_memory(ours), _memory(theirs))]
        rows = [_row(f"memory with helpers, {COUNT}, beside {peer.program}", "MiB", pairs)]
        if peer.status:
            *words, option = peer.status
            command = [words[0], option, str(config), *words[1:]]
            pairs = [
                (milliseconds_of(status_command(ours)), milliseconds_of(command)) for _ in range(max(rounds, 5))
            ]
            rows.append(_row(f"status command, {COUNT}, beside {words[0]}", "ms", pairs))
    return rows


def _memory(subject: Subject) -> float:
    """Of the supervisor and whatever else of its own it needs, what it shares with others counted in parts."""
    family = [subject.process, *(c for c in subject.process.children() if "child" not in c.name())]
    return float(sum(process.memory_full_info().pss for process in family)) / MIB


def _row(name: str, unit: str, pairs: list[tuple[float, float]]) -> Row:
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Row(name=name, unit=unit, ours=ours, limit=theirs, note="no limit: what the other takes")
