"""The first command of the README on an empty home, and what the tour then does to the stack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import psutil
import pytest

from tests.adapters.probes.test_tcp import free_port
from tests.system.daemons import Stack, kill, wait_until

pytestmark = pytest.mark.crashes

NAMES = ["stigmer-server", "workflow-runner", "agent-runner"]
FIRST_START = 20.0
"""Seconds in which a first start ends with a healthy stack on screen."""


@pytest.fixture(autouse=True)
def _own_port(home: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GRPC_PORT", str(free_port()))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")  # all three are processes
    yield
    home.cli("stop", "--now")


def seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def test_first_start_ends_with_three_healthy_components_on_screen(home: Stack) -> None:
    began = time.monotonic()
    done = home.cli()
    assert time.monotonic() - began < FIRST_START
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("✓ healthy: 3 of 3 up") :].splitlines()
    rows = [line.split()[1:4] for line in table if line.startswith("✓  ")]
    assert rows == [[name, "running", "healthy"] for name in NAMES]
    assert home.cli("stop").returncode == 0
    assert home.processes() == {}


def test_killed_worker_comes_back_after_a_second_and_status_says_so(home: Stack) -> None:
    assert home.cli().returncode == 0
    pid = home.component("workflow-runner")["pid"]
    killed = time.time()
    kill(pid)
    again = home.wait_state("workflow-runner", "running", life=2)
    exited, starting = (
        [seconds(e["at"]) for e in home.events("workflow-runner") if e["event"] == event][-1]
        for event in ("exited", "starting")
    )
    assert -0.002 < exited - killed < 1.0  # 50 ms on a machine that is not busy: see test_crashes.py
    assert 1.0 <= starting - exited + 0.002 < 5.0
    log = (home.home / "logs" / "workflow-runner.log").read_text()
    assert "stigmerd[workflow-runner]: Restarted workflow-runner (attempt 1/10)\n" in log
    assert (again["restarts"], again["last_exit"]["signal"]) == (1, "SIGKILL")
    assert seconds(again["last_exit"]["at"]) == pytest.approx(exited, abs=0.05)
    shown = home.cli("status").stdout
    assert "killed by SIGKILL" in shown
    assert [home.component(name)["life"] for name in NAMES] == [1, 2, 1]


def test_each_command_line_holds_the_name_of_its_own_component_alone(home: Stack) -> None:
    assert home.cli().returncode == 0
    daemon = home.call("hello")["pid"]
    lines = {pid: " ".join(psutil.Process(pid).cmdline()) for pids in home.processes().values() for pid in pids}
    lines[daemon] = " ".join(psutil.Process(daemon).cmdline())
    named = {name: [pid for pid, line in lines.items() if name in line] for name in NAMES}
    assert named == {name: [home.component(name)["pid"]] for name in NAMES}
    psutil.Process(named["workflow-runner"][0]).terminate()  # what pkill -f sends
    wait_until(lambda: home.component("workflow-runner")["life"] == 2)
