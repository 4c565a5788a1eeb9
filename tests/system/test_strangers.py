"""Strangers in the place of what the state names, and a state that is not what it was: nobody is signalled."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.daemons import LIMIT, Stack, is_alive, kill, wait_until
from tests.system.invariants import check_present

pytestmark = [
    pytest.mark.crashes,
    pytest.mark.skipif(sys.platform != "linux", reason="Linux only: pids can be chosen there"),
]

SLEEPER = '[component.a]\ncommand = "sleep 1000"\n'
CLONE3 = 435
CHOSEN_PID_FIELD, CHOSEN_PIDS_FIELD, EXIT_SIGNAL_FIELD, FIELDS = 8, 9, 4, 11


def clone_at(pid: int) -> int:
    """Fork onto this very pid: 0 in the child. Source: clone(2), ``set_tid``."""
    chosen = (ctypes.c_int32 * 1)(pid)
    fields = [0] * FIELDS
    fields[EXIT_SIGNAL_FIELD] = signal.SIGCHLD
    fields[CHOSEN_PID_FIELD], fields[CHOSEN_PIDS_FIELD] = ctypes.addressof(chosen), 1
    request = (ctypes.c_uint64 * FIELDS)(*fields)
    # Not CDLL: it gives up the interpreter's lock around the call, which the child could not take back.
    library = ctypes.PyDLL(None, use_errno=True)
    deadline = time.monotonic() + LIMIT
    while (made := int(library.syscall(CLONE3, ctypes.byref(request), ctypes.sizeof(request)))) < 0:
        if ctypes.get_errno() != errno.EEXIST or time.monotonic() > deadline:
            break
        time.sleep(0.01)  # its last holder has left /proc, and the kernel is about to free the number
    if made < 0:
        number = ctypes.get_errno()
        if number in {errno.EPERM, errno.ENOSYS, errno.E2BIG}:
            pytest.skip(f"nobody may choose a pid here: {os.strerror(number)}")
        raise OSError(number, os.strerror(number))
    return made


@contextmanager
def stranger_on(pid: int, *argv: str, **more: str) -> Iterator[int]:
    """A process on a pid that somebody else had; it must be alive at the end."""
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    if clone_at(pid) == 0:
        try:
            os.setsid()
            os.execvpe(argv[0], argv, {**os.environ, **more})
        finally:
            os._exit(127)
    try:
        wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] == argv[0].encode())
        yield pid
        assert os.waitpid(pid, os.WNOHANG | os.WUNTRACED) == (0, 0), "the stranger was signalled"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def leaving_a_dead_one(home: Stack) -> Iterator[int]:
    """A daemon that was killed, and whose component died after it; its pid is free."""
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    home.kill()
    kill(pid)
    yield pid


MARKS = {"STIGMER_COMPONENT": "a", "STIGMER_LIFE": "1-0123456789abcdef01234567"}


@pytest.mark.parametrize("marks", [{}, {**MARKS, "STIGMER_HOME": "/elsewhere"}], ids=["unmarked", "other-home"])
def test_stranger_on_the_pid_of_a_life_is_neither_adopted_nor_signalled(home: Stack, marks: dict[str, str]) -> None:
    with leaving_a_dead_one(home) as pid, stranger_on(pid, "sleep", "1000", **marks):
        told = home.cli("status", "--json")
        assert json.loads(told.stdout)["components"][0]["alive"] is False
        home.start()
        again = home.wait_state("a", "running", life=2)
        assert (again["adopted"], again["restarts"]) == (False, 1)
        assert again["pid"] != pid
        check_present(home)
        home.end()


def test_stranger_on_the_pid_of_a_life_survives_a_stop_without_a_daemon(home: Stack) -> None:
    with leaving_a_dead_one(home) as pid, stranger_on(pid, "sleep", "1000"):
        assert home.cli("stop").returncode == 0
        assert home.cli("stop", "--now").returncode == 0


def test_stranger_on_the_pid_of_a_life_that_ended_under_a_living_daemon_survives_everything(home: Stack) -> None:
    home.configure(SLEEPER + 'restart = { policy = "never" }\nstop = { grace = "100ms" }\n')
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    kill(pid)
    home.wait_state("a", "failed")
    with stranger_on(pid, "sleep", "1000"):
        for method in ("stop", "start", "restart"):
            home.call(method, names=["a"])
        home.end()


def test_stranger_on_the_pid_of_the_dead_daemon_keeps_no_daemon_from_starting(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    before = home.wait_state("a", "running")["pid"]
    assert home.daemon is not None
    dead = home.daemon.pid
    home.kill()
    with stranger_on(dead, "sleep", "1000"):
        assert home.cli("status").returncode == 3
        home.start()
        wait_until(lambda: home.component("a")["adopted"])
        assert home.wait_state("a", "running")["pid"] == before
        home.end()


def test_after_another_boot_a_stranger_on_a_recorded_pid_is_left_alone(home: Stack) -> None:
    with leaving_a_dead_one(home) as pid, stranger_on(pid, "sleep", "1000"):
        other = home.home.parent / "boot_id"
        other.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
        mount = f"mount --bind {other} /proc/sys/kernel/random/boot_id && exec"
        command = f"{mount} {sys.executable} -P -m stigmerd --home {home.home}"
        home.daemon = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", command], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(home.answers)
        again = home.wait_state("a", "running", life=2)
        assert (again["adopted"], again["restarts"]) == (False, 0)  # afresh, as after any boot
        check_present(home)
        home.end()


# The state itself.


def state_files(home: Stack) -> list[Path]:
    folder = home.home / "state"
    return [path for path in folder.iterdir() if re.match(r"(state\.json|changes\.jsonl)", path.name)]


@pytest.mark.parametrize("name", ["0", "1", "-1", "$$"])
def test_state_that_names_a_process_nobody_may_signal_leads_to_no_signal(home: Stack, name: str) -> None:
    with leaving_a_dead_one(home) as pid:
        # In a shell that becomes the daemon, $$ is the daemon's own pid.
        edit = f"""sed -i 's/"pid": \\{{0,1\\}}{pid}/"pid":'"{name}"'/g' {" ".join(map(str, state_files(home)))}"""
        command = f"{edit} && exec {sys.executable} -P -m stigmerd --home {home.home}"
        home.daemon = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(home.answers)
        again = home.wait_state("a", "running")
        assert (again["adopted"], again["life"]) == (False, 2)
        problems = " ".join(home.call("status")["daemon"]["problems"])
        assert "the daemon's own pid" in problems if name == "$$" else f"names pid {name}" in problems
        check_present(home)


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "newer schema": lambda path: path.write_text(path.read_text().replace('"schema": 1', '"schema": 2')),
    "wrong types": lambda path: path.write_text(path.read_text().replace('"life": 1', '"life": "one"')),
    "deep": lambda path: path.write_text("[" * 100_000),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 10),
    "directory": lambda path: replaced(path, Path.mkdir),
    "symlink": lambda path: replaced(path, lambda p: p.symlink_to("/etc/passwd")),
    "fifo": lambda path: replaced(path, os.mkfifo),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_state_that_cannot_be_used_is_set_aside_and_said_and_nobody_is_signalled(home: Stack, damage: str) -> None:
    home.configure(SLEEPER)
    home.start()
    before = home.wait_state("a", "running")["pid"]
    state = home.home / "state" / "state.json"
    wait_until(lambda: state.exists() and '"life": 1' in state.read_text())
    home.kill()
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            DAMAGE[damage](state)
            home.start()
            after = home.wait_state("a", "running")
            if (after["pid"], after["life"]) != (before, 1):  # what state.json alone knew is lost with it
                assert not is_alive(before)
                assert (after["adopted"], after["life"]) == (False, 2)
            assert any("state.json" in one and "set aside" in one for one in home.call("status")["daemon"]["problems"])
            assert [path for path in state.parent.iterdir() if path.name.startswith("state.json.bad-")]
            wait_until(lambda: state.is_file() and not state.is_symlink())
            check_present(home)
            assert stranger.poll() is None
        finally:
            stranger.kill()
