"""``restart --daemon``: another program, the same pid, and nobody notices."""

from __future__ import annotations

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from stigmerd.adapters.disk.rotation import can_collapse
from stigmerd.cli.reach import HELLO_TIMEOUT
from stigmerd.control.client import ControlError, RemoteError, connect
from tests.system.daemons import Stack, wait_until
from tests.system.invariants import check_left_nothing, check_present

pytestmark = pytest.mark.crashes

SLEEPER = '[component.a]\ncommand = "sleep 1000"\n'

LEAVING = """
[component.leaving]
command = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]
stop = { grace = "3s" }
"""

BUSY = f"""
[component.steady]
command = "sleep 1000"
readiness = {{ exec = {{ command = "sleep 0.3" }}, period = "10ms" }}

[component.starting]
command = "sleep 1001"
startup = {{ tcp = {{ address = "127.0.0.1:1" }}, period = "50ms", failure_threshold = 100000 }}

[component.waiting]
command = "sleep 1002"
depends_on = {{ starting = "ready" }}

[component.resting]
command = "false"
restart = {{ initial_backoff = "1h" }}

[component.failed]
command = "false"
restart = {{ policy = "never" }}

{LEAVING}
[component.writer]
command = ["{sys.executable}", "-S", "-c", '''
import os, time
for n in range(10**9):
    os.write(1, b"%07d\\n" % n)
    n % 8 or time.sleep(0.0005)
''']
log = {{ max_size = "16KiB", keep = 500 }}
stop = {{ grace = "0s" }}
"""


def wait_deaf(home: Stack) -> None:
    """Wait until what is to leave late ignores SIGTERM."""
    home.wait_state("leaving", "running")
    wait_until(lambda: "deaf" in (home.home / "logs" / "leaving.log").read_text().split())


def states(home: Stack) -> dict[str, tuple[str, int | None]]:
    return {one["name"]: (one["state"], one["pid"]) for one in home.call("status")["components"]}


def check_lines(logs: Path) -> None:
    rotated = sorted(logs.glob("writer.log.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    output = b"".join(path.read_bytes() for path in [*rotated, logs / "writer.log"])
    numbers = [int(line) for line in output.splitlines() if line.isdigit()]
    assert numbers == list(range(len(numbers))), "lines are lost, doubled or out of order"


def ignoring_the_end(home: Stack, method: str, **params: object) -> None:
    """Ask for something that the daemon may not live to answer."""
    with suppress(ControlError, OSError):
        home.call(method, **params)


def test_replacement_under_load_touches_no_component_and_finishes_what_was_begun(home: Stack) -> None:
    home.configure(BUSY)
    home.start()
    for name, state in {"steady": "running", "writer": "running", "resting": "restarting", "failed": "failed"}.items():
        home.wait_state(name, state)
    wait_until(lambda: home.component("starting")["pid"])
    wait_deaf(home)
    assert home.daemon is not None
    with connect(str(home.home)) as subscriber, ThreadPoolExecutor(1) as threads:
        events = subscriber.subscribe("events.subscribe")
        stopping = threads.submit(ignoring_the_end, home, "stop", names=["leaving"])
        home.wait_state("leaving", "stopping")
        before = states(home)
        done = home.cli("restart", "--daemon")
        assert (done.returncode, done.stderr) == (0, "")
        stopping.result()
        assert [*events][-1].method == "event"  # and then the connection was closed, not left silent
    assert home.call("hello")["pid"] == home.daemon.pid
    wait_until(lambda: home.component("steady")["adopted"])
    after = states(home)
    assert {**after, "leaving": None} == {**before, "leaving": None}
    home.wait_state("leaving", "stopped")
    wait_until(lambda: home.component("steady")["ready"])
    assert home.call("shutdown")["components"]
    home.daemon.wait(20)
    check_left_nothing(home)
    if can_collapse(str(home.home)):
        check_lines(home.home / "logs")


def test_several_replacements_at_once_all_come_to_a_good_end(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    before = home.wait_state("a", "running")
    with ThreadPoolExecutor(4) as threads:
        ends = [*threads.map(lambda _: home.cli("restart", "--daemon"), range(4))]
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 4
    assert home.daemon is not None
    assert home.call("hello")["pid"] == home.daemon.pid
    wait_until(lambda: home.component("a")["adopted"])
    after = home.component("a")
    assert (after["pid"], after["life"]) == (before["pid"], 1)
    check_present(home)


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3])
def test_shutdown_during_a_replacement_has_the_last_word(home: Stack, after: float) -> None:
    home.configure(SLEEPER)
    home.start()
    home.wait_state("a", "running")
    assert home.daemon is not None
    with ThreadPoolExecutor(1) as threads:
        replacing = threads.submit(ignoring_the_end, home, "reexec")
        time.sleep(after)
        home.daemon.send_signal(signal.SIGTERM)
        assert home.daemon.wait(20) == 0
        replacing.result()
    check_left_nothing(home)


def test_shutdown_between_an_accepted_replacement_and_the_next_program_has_the_last_word(home: Stack) -> None:
    home.configure(f"{SLEEPER}{LEAVING}")
    home.start()
    home.wait_state("a", "running")
    wait_deaf(home)
    assert home.daemon is not None
    with ThreadPoolExecutor(1) as threads:
        stopping = threads.submit(ignoring_the_end, home, "stop", names=["leaving"])
        home.wait_state("leaving", "stopping")
        assert home.call("reexec") == {}
        home.daemon.send_signal(signal.SIGTERM)  # while the answer to the stop is waited for
        assert home.daemon.wait(20) == 0
        stopping.result()
    check_left_nothing(home)


LAST_INSTANT_PROGRAM = """
import os, signal, time

execve = os.execve

def execve_after_all(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    execve(*arguments)

os.execve = execve_after_all
"""
"""Is asked to end at the last instant before it becomes the next program."""


def test_shutdown_that_comes_right_before_the_exec_is_carried_out_by_the_next_program(
    home: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.home / "lib").mkdir()
    (home.home / "lib" / "sitecustomize.py").write_text(LAST_INSTANT_PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(home.home / "lib"))
    home.configure(SLEEPER)
    home.start()
    home.wait_state("a", "running")
    assert home.daemon is not None
    ignoring_the_end(home, "reexec")
    assert home.daemon.wait(20) == 0
    told = [one["event"] for one in home.events() if one["component"] is None and one["event"] != "suspended"]
    assert told == ["daemon_started", "daemon_started", "daemon_stopping"]
    assert home.processes() == {}


@pytest.mark.parametrize("after", [0.05, 0.3, 0.5, 0.8])
def test_daemon_that_is_killed_in_the_middle_of_a_replacement_leaves_all_to_the_next(home: Stack, after: float) -> None:
    home.configure(SLEEPER)
    home.start()
    before = home.wait_state("a", "running")["pid"]
    with ThreadPoolExecutor(1) as threads:
        replacing = threads.submit(ignoring_the_end, home, "reexec")
        time.sleep(after)
        home.kill()
        replacing.result()
    assert home.processes() == {"a": [before]}
    home.start()
    assert home.wait_state("a", "running")["pid"] == before
    check_present(home)


def test_program_that_cannot_start_does_not_replace_the_daemon(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    with connect(str(home.home)) as client:
        home.home.chmod(0o770)
        with pytest.raises(RemoteError, match="can be written by"):
            client.call("reexec")
    home.home.chmod(0o700)
    assert home.component("a")["pid"] == pid


def test_daemon_in_the_background_stays_there(home: Stack) -> None:
    home.configure(SLEEPER)
    assert home.cli("start").returncode == 0
    try:
        pid = home.call("hello")["pid"]
        stderr = Path(f"/proc/{pid}/fd/2")
        before = stderr.stat().st_size
        assert home.cli("restart", "--daemon").returncode == 0
        assert home.call("hello")["pid"] == pid
        home.wait_state("a", "running")
        assert home.call("restart", names=["a"])["components"][0]["ok"]
        wait_until(lambda: "stopping" in (home.home / "logs" / "stigmerd.log").read_text())
        assert stderr.stat().st_size == before, "the log goes to a file that nobody sees"
    finally:
        assert home.cli("stop", "--now").returncode == 0


SLOW_PROGRAM = """
import os, sys, time
if os.path.exists({flag!r}) and "stigmerd" in sys.orig_argv:
    time.sleep({span})
"""
"""Delays every daemon's start, once there is a flag."""


@pytest.mark.slow
def test_program_that_takes_longer_to_load_than_a_hello_may_take_is_waited_for(
    home: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = home.home / "slow"
    (home.home / "lib").mkdir()
    (home.home / "lib" / "sitecustomize.py").write_text(SLOW_PROGRAM.format(flag=str(flag), span=HELLO_TIMEOUT + 1))
    monkeypatch.setenv("PYTHONPATH", str(home.home / "lib"))
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    flag.touch()
    replaced = home.cli("restart", "--daemon")
    assert replaced.returncode == 0, replaced.stderr
    flag.unlink()
    assert home.component("a")["pid"] == pid
