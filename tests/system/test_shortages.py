"""Descriptors and processes run out, and come back: the operator is answered all the while, and nothing is lost."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from stigmerd.control.client import DaemonSilentError
from tests.system.daemons import Stack, kill, wait_until

pytestmark = pytest.mark.crashes

ANSWER_LIMIT = 2.0
"""Seconds for an answer to the operator, on a machine that is busy."""

BUSY_STACK = """
[defaults.restart]
initial_backoff = "100ms"
max_backoff = "100ms"
max_restarts = 1000
[defaults.stop]
grace = "500ms"
[component.victim]
command = "sleep 1000"
[component.tree]
command = ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"]
[component.probed]
command = "sleep 1000"
liveness = { exec = { command = "true" }, period = "1s" }
[component.other]
command = "sleep 1000"
"""
NAMES = ("victim", "tree", "probed", "other")


def start(home: Stack) -> int:
    home.configure(BUSY_STACK)
    home.start()
    for name in NAMES:
        home.wait_state(name, "running")
    assert home.daemon is not None
    return home.daemon.pid


@contextmanager
def descriptors_left(daemon: int, count: int) -> Iterator[None]:
    """Let the daemon have this many descriptors more than it has open now."""
    before = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{daemon}/fd"))) + 1
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (used + count, before[1]))
    try:
        yield
    finally:
        resource.prlimit(daemon, resource.RLIMIT_NOFILE, before)


@pytest.fixture
def pids_group(home: Stack) -> Iterator[Path | None]:
    """A cgroup that counts processes, for root, who is exempt from the other limit; of version 1, as one
    of version 2 would move the daemon away from its leaves."""
    if os.geteuid() != 0:
        yield None
        return
    counting = [Path(part.mountpoint) for part in psutil.disk_partitions(all=True) if "pids" in part.opts.split(",")]
    if not counting:
        pytest.skip("Linux only, and only where a cgroup of version 1 counts processes")
    group = counting[0] / f"stigmerd-test-{os.getpid()}"
    group.mkdir()
    yield group
    home.end()
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@contextmanager
def no_more_processes(home: Stack, group: Path | None) -> Iterator[None]:
    """Let nothing of this home, the daemon included, have one process or thread more."""
    assert home.daemon is not None
    daemon = psutil.Process(home.daemon.pid)
    if group is None:
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NPROC)
        resource.prlimit(daemon.pid, resource.RLIMIT_NPROC, (1, before[1]))
        try:
            yield
        finally:
            resource.prlimit(daemon.pid, resource.RLIMIT_NPROC, before)
        return
    for process in (daemon, *daemon.children(recursive=True)):
        with suppress(ProcessLookupError):  # a probe's command that has ended meanwhile
            (group / "cgroup.procs").write_text(str(process.pid))
    (group / "pids.max").write_text("1")
    try:
        yield
    finally:
        (group / "pids.max").write_text("max")


THREADLESS_PROGRAM = """
import os, sys, threading

start = threading.Thread.start

def start_or_not(thread):
    if thread.name != "reserve" and os.path.exists({flag!r}) and os.path.exists({events!r}):
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = start_or_not
if "stigmerd" in sys.orig_argv:
    from trio._core import _thread_cache
    _thread_cache.IDLE_TIMEOUT = 0
"""
"""Takes every thread from a daemon that has written down its start, but for the one that was held back; while
there is a flag."""


def check_operator_is_served(home: Stack) -> None:
    """Status and stop are answered in time, of a tree in two sessions too, and nothing of it is left."""
    began = time.monotonic()
    assert {one["name"]: one["state"] for one in home.call("status")["components"]}["other"] == "running"
    assert time.monotonic() - began < ANSWER_LIMIT
    for name in ("tree", "other"):
        began = time.monotonic()
        assert [one["ok"] for one in home.call("stop", names=[name])["components"]] == [True]
        assert time.monotonic() - began < ANSWER_LIMIT + 0.5, "the grace included"
        assert name not in home.processes()


def check_all_recovers(home: Stack) -> None:
    home.wait_state("victim", "running")
    wait_until(lambda: home.call("status")["daemon"]["problems"] == [])
    assert home.component("other")["state"] == "stopped"
    assert [one["ok"] for one in home.call("start", names=["tree", "other"])["components"]] == [True, True]
    assert home.wait_state("probed", "running")["last_exit"] is None
    assert "internal error" not in (home.home / "logs" / "stigmerd.log").read_text()


def test_sixteen_descriptors_are_enough_beside_idle_clients(home: Stack) -> None:
    daemon = start(home)
    with descriptors_left(daemon, 16), ExitStack() as idle:
        for _ in range(40):
            client = idle.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(home.home / "run" / "stigmerd.sock"))
        kill(home.component("victim")["pid"])
        home.wait_state("victim", "running", life=2)
        wait_until(lambda: any("descriptors are left" in one for one in home.call("status")["daemon"]["problems"]))
        check_operator_is_served(home)
    check_all_recovers(home)


def test_without_a_descriptor_the_operator_is_served_and_nobody_is_taken_for_dead(home: Stack) -> None:
    daemon = start(home)
    with descriptors_left(daemon, 0):
        with suppress(DaemonSilentError):
            home.call("stop", names=["tree"])
        wait_until(lambda: any("left" in one for one in home.call("status")["daemon"]["problems"]))
    wait_until(lambda: home.call("stop", names=["tree"])["components"][0]["ok"])
    assert "tree" not in home.processes()
    home.wait_state("probed", "running")
    assert "internal error" not in (home.home / "logs" / "stigmerd.log").read_text()


def test_without_processes_the_operator_is_served_and_restarts_that_wait_are_made(
    home: Stack, pids_group: Path | None
) -> None:
    start(home)
    with no_more_processes(home, pids_group):
        kill(home.component("victim")["pid"])
        wait_until(lambda: any("victim cannot be started" in one for one in home.call("status")["daemon"]["problems"]))
        check_operator_is_served(home)
        assert home.component("victim")["state"] in {"starting", "restarting"}
    check_all_recovers(home)


def test_daemon_whose_threads_run_out_during_its_start_looks_for_strays_all_the_same(
    home: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, events = home.home / "flag", home.home / "state" / "events.jsonl"
    (home.home / "lib").mkdir()
    program = THREADLESS_PROGRAM.format(flag=str(flag), events=str(events))
    (home.home / "lib" / "sitecustomize.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(home.home / "lib"))
    home.configure(BUSY_STACK)
    flag.touch()
    home.start()
    wait_until(lambda: home.call("status")["daemon"]["problems"])
    flag.unlink()
    for name in NAMES:
        home.wait_state(name, "running")
