"""workflow-runner and agent-runner: as processes, and in process where time has to be short."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import pytest

from stigmerd.reference.worker import ServerAwayError, Worker, endpoint_from
from tests.reference.programs import running, running_server

TIMESTAMP = r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "


@pytest.mark.parametrize("name", ["workflow-runner", "agent-runner"])
def test_worker_works_and_says_so(tmp_path: Path, name: str) -> None:
    with (
        running_server(tmp_path) as (server, address),
        running(tmp_path, name, STIGMER_BACKEND_ENDPOINT=address) as worker,
    ):
        worker.wait_output(rf"{TIMESTAMP}{name}: task 1 is done: \w+")
        server.wait_output(rf"{TIMESTAMP}stigmer-server: task 1 goes to {name}")


def test_worker_that_was_there_first_waits_for_the_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = str(reserved.getsockname()[1])
    with running(tmp_path, "workflow-runner", STIGMER_BACKEND_ENDPOINT=f"localhost:{port}") as worker:
        worker.wait_output("lost 127.0.0.1:")
        with running(tmp_path, "stigmer-server", GRPC_PORT=port):
            worker.wait_output("task 1 is done")


def test_worker_connects_again_when_the_server_was_killed(tmp_path: Path) -> None:
    with running_server(tmp_path) as (server, address):
        env = {"STIGMER_BACKEND_ENDPOINT": address}
        with running(tmp_path, "workflow-runner", **env) as worker:
            worker.wait_output("task 1 is done")
            server.process.kill()
            worker.wait_output("lost")
            with running(tmp_path, "stigmer-server", GRPC_PORT=address.rpartition(":")[2]):
                worker.wait_output(r"(?s)lost.*task 1 is done")
            assert worker.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_ends_at_once_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with (
        running_server(tmp_path) as (_, address),
        running(tmp_path, "workflow-runner", STIGMER_BACKEND_ENDPOINT=address) as worker,
    ):
        worker.wait_output("task 1 is done")
        asked_at = time.monotonic()
        worker.process.send_signal(number)
        assert worker.wait_exit() == 0
        assert time.monotonic() - asked_at < 1


def test_worker_without_a_server_gives_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        endpoint = f"127.0.0.1:{reserved.getsockname()[1]}"
    worker = Worker(name="workflow-runner", endpoint=endpoint, patience=0.2)
    with pytest.raises(ServerAwayError, match=r"Connection refused"):
        asyncio.run(worker.run())


def test_worker_gives_up_on_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        worker = Worker(name="workflow-runner", endpoint=endpoint, patience=0.2)
        with pytest.raises(ServerAwayError, match=r"no answer within 2 s"):
            asyncio.run(worker.run())


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("", "127.0.0.1:7234"),
        ("localhost:80", "127.0.0.1:80"),
        ("host.docker.internal:7234", "host.docker.internal:7234"),
        ("[::1]:7234", "[::1]:7234"),
    ],
)
def test_endpoint_comes_from_the_environment(text: str, endpoint: str) -> None:
    assert endpoint_from({"STIGMER_BACKEND_ENDPOINT": text}) == endpoint
