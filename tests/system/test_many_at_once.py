"""Many who want the same home at one instant: one daemon, one copy of each component."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from stigmerd.control.client import DaemonAbsentError, DaemonSilentError
from tests.system.daemons import Stack, wait_until
from tests.system.invariants import check_left_nothing, check_present

pytestmark = pytest.mark.crashes

STACK = "".join(f'[component.c{number}]\ncommand = "sleep 1000"\n' for number in range(3))


def answers(home: Stack) -> bool:
    """Whether a daemon has made its socket, and answers."""
    with suppress(DaemonAbsentError, DaemonSilentError):
        return bool(home.call("hello"))
    return False


def test_of_eight_daemons_at_once_one_wins_and_the_others_say_so(home: Stack) -> None:
    home.configure(STACK)
    command = [sys.executable, "-P", "-m", "stigmerd", "--home", str(home.home)]
    daemons = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    try:
        wait_until(lambda: sum(daemon.poll() is None for daemon in daemons) == 1)
        (winner,) = (daemon for daemon in daemons if daemon.poll() is None)
        for loser in daemons:
            if loser is not winner:
                assert loser.stderr is not None
                said = loser.stderr.read()
                assert (loser.returncode, len(said.splitlines())) == (1, 1), said
                assert f"in use by the daemon with pid {winner.pid}" in said
        wait_until(lambda: answers(home))
        home.wait_state("c2", "running")
        assert home.call("hello")["pid"] == winner.pid
        check_present(home)
        home.call("shutdown")
        assert winner.wait(60) == 0
        check_left_nothing(home)
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.communicate()


def test_twenty_starts_at_once_make_one_daemon_and_all_succeed(home: Stack) -> None:
    home.configure(STACK)
    try:
        with ThreadPoolExecutor(20) as threads:
            ends = [*threads.map(lambda _: home.cli("start"), range(20))]
        assert [(end.returncode, end.stderr) for end in ends if end.returncode] == []
        told = [e["event"] for e in home.events() if e["component"] is None and e["event"] != "suspended"]
        assert told == ["daemon_started"]
        assert {name: len(pids) for name, pids in home.processes().items()} == {"c0": 1, "c1": 1, "c2": 1}
        check_present(home)
    finally:
        assert home.cli("stop").returncode == 0
    check_left_nothing(home)
