"""Containers under a real daemon, with a Docker Engine that the test may freeze and restart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.docker import HEALTH_IMAGE, IMAGE, SDK_LEAVES_SOCKETS, OwnEngine, own_engine, restartable
from tests.system.daemons import Stack, kill, stack, wait_until

__all__ = ["own_engine", "restartable"]

pytestmark = [pytest.mark.crashes, pytest.mark.docker, SDK_LEAVES_SOCKETS]

ENGINE_LIMIT = 60.0
"""Seconds for what an engine does: it makes and removes containers on a disk that others use too."""


@pytest.fixture
def api(restartable: OwnEngine) -> Iterator[docker.APIClient]:
    """The test's own view of the engine."""
    with contextlib.closing(docker.APIClient(restartable.host, version="auto", timeout=30)) as client:
        yield client


def of_home(api: docker.APIClient, home: Path) -> list[dict[str, Any]]:
    """Every container of a home, stopped ones too."""
    found: list[dict[str, Any]] = api.containers(all=True, filters={"label": [f"stigmerd.home={home}"]})
    return found


@pytest.fixture
def home(
    tmp_path: Path, restartable: OwnEngine, api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """A home with the engine, which no container of it outlasts."""
    monkeypatch.setenv("DOCKER_HOST", restartable.host)
    with stack(tmp_path) as one:
        yield one
    try:  # an engine may be at a removal still when the daemon has waited long enough for it
        wait_until(lambda: of_home(api, tmp_path) == [], ENGINE_LIMIT)
    finally:
        for left in of_home(api, tmp_path):  # else no later test could have the name
            api.remove_container(left["Id"], force=True)


def configure(home: Stack, *, image: str = IMAGE, name: str = "boxed", script: str = "sleep 1000") -> None:
    """One container, and a process beside it."""
    home.configure(
        f"""
        [defaults]
        restart = {{ initial_backoff = "100ms" }}
        stop = {{ grace = "200ms" }}
        [component.boxed]
        liveness = {{ container = {{}}, period = "500ms", failure_threshold = 2 }}
        [component.boxed.container]
        image = "{image}"
        name = "{name}"
        network = "host"
        env = {{ SECRET = "hunter2" }}
        command = ["/bin/sh", "-c", {json.dumps(script)}]
        [component.local]
        command = "sleep 1000"
        """
    )


def wait_life(home: Stack, life: int) -> str:
    """Wait until a life of the container runs; return the container's id."""

    def look() -> str | None:
        boxed = home.component("boxed")
        return boxed["container_id"] if (boxed["life"], boxed["state"]) == (life, "running") else None

    return str(wait_until(look, ENGINE_LIMIT))


def exits(home: Stack) -> list[int]:
    """The lives of the container whose exit is recorded."""
    return [entry["life"] for entry in home.events("boxed") if entry["event"] == "exited"]


def sicken(api: docker.APIClient, container: str) -> None:
    """Let the image's health check fail."""
    api.exec_start(api.exec_create(container, ["/bin/touch", "/sick"])["Id"], detach=True)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda api, container: api.kill(container), "exited with code 137"),
        (lambda api, container: api.remove_container(container, force=True), "exited with code 137"),
        (sicken, "liveness probe failed 2 times: container is unhealthy"),
    ],
    ids=["killed", "removed", "unhealthy"],
)
def test_container_that_fails_is_restarted(
    home: Stack, api: docker.APIClient, fault: Callable[[docker.APIClient, str], object], error: str
) -> None:
    configure(home, image=HEALTH_IMAGE)
    home.start()
    first = wait_life(home, 1)
    fault(api, first)
    assert wait_life(home, 2) != first
    again = home.component("boxed")
    assert (again["restarts"], exits(home)) == (1, [1])
    assert again["last_error"].startswith(error)
    assert home.component("local")["life"] == 1
    assert len(of_home(api, home.home)) == 1


def test_engine_that_hangs_delays_no_local_restart(home: Stack, restartable: OwnEngine) -> None:
    configure(home)
    home.start()
    container = wait_life(home, 1)
    restartable.freeze()
    try:
        wait_until(lambda: "does not answer" in home.component("boxed")["reason"], ENGINE_LIMIT)
        delays = []
        for life in (2, 3):
            killed = time.monotonic()
            kill(home.component("local")["pid"])
            home.wait_state("local", "running", life=life)
            delays.append(time.monotonic() - killed)
        assert min(delays) < 2.0, f"{delays}"
        assert home.component("boxed")["state"] == "running"
    finally:
        restartable.thaw()
    wait_until(lambda: home.component("boxed")["reason"] == "", ENGINE_LIMIT)
    assert (home.component("boxed")["container_id"], exits(home)) == (container, [])


def test_exit_during_a_restart_of_the_engine_is_recorded_once(
    home: Stack, restartable: OwnEngine, api: docker.APIClient
) -> None:
    configure(home)
    home.start()
    pid = api.inspect_container(wait_life(home, 1))["State"]["Pid"]
    restartable.stop()
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: home.component("boxed")["reason"], ENGINE_LIMIT)
    finally:
        restartable.start()
    wait_life(home, 2)
    assert exits(home) == [1]
    assert len(of_home(api, home.home)) == 1


def test_output_is_complete_across_deaths_of_the_daemon(home: Stack) -> None:
    configure(home, script="i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); sleep 0.005; done; sleep 1000")
    home.start()
    container = wait_life(home, 1)
    for _ in range(3):
        log = home.home / "logs" / "boxed.log"
        before = log.stat().st_size
        wait_until(lambda: log.stat().st_size > before, ENGINE_LIMIT)  # noqa: B023  (called in this round)
        home.kill()
        home.start()
        assert wait_life(home, 1) == container
    wait_until(lambda: "line 1999\n" in log.read_text(), ENGINE_LIMIT)
    lines = [line for line in log.read_text().splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(2000)]


def test_job_that_is_done_while_no_daemon_runs_is_completed_and_not_run_again(
    home: Stack, api: docker.APIClient
) -> None:
    home.configure(
        f"""
        [component.boxed]
        restart = {{ policy = "on-failure" }}
        [component.boxed.container]
        image = "{IMAGE}"
        name = "boxed"
        network = "host"
        command = ["/bin/sh", "-c", "while [ ! -e /go ]; do sleep 0.1; done; echo done"]
        """
    )
    home.start()
    container = wait_life(home, 1)
    home.kill()
    api.exec_start(api.exec_create(container, ["/bin/touch", "/go"])["Id"], detach=True)
    wait_until(lambda: not api.inspect_container(container)["State"]["Running"], ENGINE_LIMIT)
    home.start()
    boxed = home.wait_state("boxed", "completed")
    assert (boxed["life"], boxed["last_exit"]["code"], exits(home)) == (1, 0, [1])
    wait_until(lambda: of_home(api, home.home) == [], ENGINE_LIMIT)
    assert "done\n" in (home.home / "logs" / "boxed.log").read_text()


def test_container_whose_component_was_removed_while_no_daemon_ran_is_ended(home: Stack, api: docker.APIClient) -> None:
    configure(home)
    home.start()
    container = wait_life(home, 1)
    home.kill()
    home.configure('[component.local]\ncommand = "sleep 1000"')
    home.start()

    def removed() -> list[str]:
        # A daemon that is root finds the container's processes first, and tells of them by their pids.
        told = [entry for entry in home.events("boxed") if entry["event"] == "orphan_removed"]
        return [entry["container"] for entry in told if "container" in entry]

    wait_until(lambda: removed() == [container], ENGINE_LIMIT)
    wait_until(lambda: of_home(api, home.home) == [], ENGINE_LIMIT)
    assert exits(home) == [1]
    assert home.component("local")["life"] == 1


def test_container_of_somebody_else_keeps_its_name_and_its_life(home: Stack, api: docker.APIClient) -> None:
    foreign = api.create_container(IMAGE, ["/bin/sleep", "1000"], name="taken")["Id"]
    api.start(foreign)
    try:
        configure(home, name="taken")
        home.start()
        error = wait_until(lambda: home.component("boxed")["last_error"], ENGINE_LIMIT)
        assert foreign[:12] in error
        home.end()
        assert api.inspect_container(foreign)["State"]["Running"]
    finally:
        api.remove_container(foreign, force=True)


def test_paused_container_is_running_with_a_reason(home: Stack, api: docker.APIClient) -> None:
    configure(home)
    home.start()
    container = wait_life(home, 1)
    api.pause(container)
    wait_until(lambda: "paused" in home.component("boxed")["reason"], ENGINE_LIMIT)
    assert home.component("boxed")["state"] == "running"
    api.unpause(container)
    wait_until(lambda: home.component("boxed")["reason"] == "", ENGINE_LIMIT)
    assert exits(home) == []


def test_missing_image_names_the_command_that_pulls_it(home: Stack) -> None:
    configure(home, image="stigmerd-absent:1")
    home.start()
    error = wait_until(lambda: home.component("boxed")["last_error"], ENGINE_LIMIT)
    assert "docker pull stigmerd-absent:1" in error
