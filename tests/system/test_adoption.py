"""The daemon's own death, with four services under it, one of them in a container."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.docker import IMAGE, OwnEngine, own_engine, restartable  # noqa: F401
from tests.system.daemons import Stack, is_alive, kill, stack, wait_until

pytestmark = [pytest.mark.crashes, pytest.mark.docker]

FOUR = f"""
[defaults.restart]
initial_backoff = "100ms"

[component.plain]
command = "sleep 1000"

[component.restarted]
command = "sleep 1001"

[component.boxed]
stop = {{ grace = "200ms" }}
container = {{ image = "{IMAGE}", name = "boxed-{os.getpid()}", network = "host", command = ["/bin/sleep", "1002"] }}

[component.deaf]
command = ["sh", "-c", "trap '' TERM; sleep 1000 & wait"]
stop = {{ grace = "200ms" }}

[component.by-hand]
command = "sleep 1003"

[component.broken]
command = "false"
restart = {{ max_restarts = 1, initial_backoff = "10ms" }}
"""

RUNNING = ("plain", "restarted", "boxed", "deaf")
COUNTS = ("pid", "container_id", "life", "restarts", "restarts_in_window", "last_restart_at", "last_exit", "started_at")


@pytest.fixture
def four(tmp_path: Path, restartable: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:  # noqa: F811
    """Four that run, one of them restarted before, one stopped by hand and one failed."""
    monkeypatch.setenv("DOCKER_HOST", restartable.host)
    with stack(tmp_path) as home:
        home.configure(FOUR)
        home.start()
        kill(home.wait_state("restarted", "running")["pid"])
        home.wait_state("restarted", "running", life=2)
        for name in RUNNING:
            home.wait_state(name, "running")
        assert home.call("stop", names=["by-hand"])["components"][0]["ok"]
        home.wait_state("broken", "failed")
        yield home


def seen(home: Stack) -> dict[str, dict[str, Any]]:
    """Of each that runs, what must outlive the daemon."""
    return {name: {key: home.component(name)[key] for key in COUNTS} for name in RUNNING}


def check_dead(home: Stack, alive: set[str]) -> None:
    """Without a daemon, the status says so, and which processes live (of containers, as soon as the engine knows)."""

    def look() -> bool:
        told = home.cli("status", "--json")
        assert told.returncode == 3
        document = json.loads(told.stdout)
        assert (document["daemon"], document["healthy"]) == (None, False)
        return {one["name"] for one in document["components"] if one["alive"]} == alive

    wait_until(look)
    shown = home.cli("status")
    assert shown.returncode == 3
    assert "not running" in shown.stdout + shown.stderr


def check_adopted(home: Stack, before: dict[str, dict[str, Any]], *, but: str | None = None) -> None:
    """All are as they were but for the one that died meanwhile, and there is one copy of each."""
    for name in {*RUNNING} - {but}:
        wait_until(lambda name=name: home.component(name)["adopted"])  # type: ignore[misc]
    after = {name: known for name, known in seen(home).items() if name != but}
    assert after == {name: known for name, known in before.items() if name != but}
    assert home.component("by-hand")["state"] == "stopped"
    assert home.component("broken")["state"] == "failed"
    leaders = {name: home.component(name)["pid"] for name in RUNNING}
    # A new container runs, for its engine, an instant before its process has its own environment.
    wait_until(lambda: {*home.processes()} == {*RUNNING})
    for name, pids in home.processes().items():
        assert leaders[name] in pids
        assert len(pids) == (2 if name == "deaf" else 1)


def exit_delay(home: Stack, name: str) -> float:
    """Kill an adopted life: its end is recorded once and followed by a restart. Returns when it was seen."""
    before = home.component(name)
    told = time.time()
    kill(before["pid"])
    home.wait_state(name, "running", life=before["life"] + 1)
    (exited,) = [e for e in home.events(name) if e["event"] == "exited" and e["life"] == before["life"]]
    assert exited["signal"] in {"SIGKILL", None}
    assert home.component(name)["restarts"] == before["restarts"] + 1
    return datetime.fromisoformat(exited["at"]).timestamp() - told


def nothing(home: Stack, engine: OwnEngine) -> None:
    """Nothing happens while no daemon runs."""


def restart_engine(home: Stack, engine: OwnEngine) -> None:
    engine.stop()
    engine.start()


@pytest.mark.parametrize("meanwhile", [nothing, restart_engine])
def test_everything_goes_on_under_the_next_daemon(
    four: Stack,
    restartable: OwnEngine,  # noqa: F811
    meanwhile: Callable[[Stack, OwnEngine], None],
) -> None:
    before = seen(four)
    four.kill()
    meanwhile(four, restartable)
    assert all(is_alive(known["pid"]) for known in before.values())
    check_dead(four, {*RUNNING})
    four.start()
    check_adopted(four, before)
    delays = [exit_delay(four, name) for name in ("plain", "restarted", "deaf")]
    assert -0.002 < min(delays) < 0.05, f"{delays}"  # a busy machine may hold up one or two


@pytest.mark.parametrize("victim", ["plain", "boxed"])
def test_service_that_dies_without_a_daemon_is_recorded_once_and_restarted(four: Stack, victim: str) -> None:
    before = seen(four)
    four.kill()
    kill(before[victim]["pid"])
    wait_until(lambda: not is_alive(before[victim]["pid"]))
    check_dead(four, {*RUNNING} - {victim})
    four.start()
    life = before[victim]["life"]
    again = four.wait_state(victim, "running", life=life + 1)
    assert (again["adopted"], again["restarts"]) == (False, before[victim]["restarts"] + 1)
    assert [e["event"] for e in four.events(victim) if e["life"] == life].count("exited") == 1
    check_adopted(four, before, but=victim)


def test_stopped_container_of_a_dead_daemon_is_no_crash(four: Stack) -> None:
    four.kill()
    wait_until(lambda: four.cli("stop", "--timeout", "1").returncode == 0)  # a busy engine may not answer the first
    assert four.processes() == {}
    four.start()
    for name in (*RUNNING, "by-hand"):
        again = four.wait_state(name, "running")
        assert (again["restarts"], again["adopted"]) == (0, False)
