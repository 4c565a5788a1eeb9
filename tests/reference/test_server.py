"""stigmer-server, as a process."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import grpc
import pytest

from stigmerd.reference import tasks
from stigmerd.reference.health import Serving
from stigmerd.reference.server import BadPortError, port_from
from tests.reference.programs import check, connected, running, running_server, watch


def test_server_says_that_it_serves(tmp_path: Path) -> None:
    with running_server(tmp_path) as (_, address), connected(address) as channel:
        assert check(channel) is Serving.SERVING
        assert check(channel, tasks.SERVICE) is Serving.SERVING
        with pytest.raises(grpc.RpcError) as refused:
            check(channel, "no.such.Service")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_watch_of_an_unknown_service_waits_for_it(tmp_path: Path) -> None:
    with running_server(tmp_path) as (_, address), connected(address) as channel:
        assert next(watch(channel, "no.such.Service")) is Serving.SERVICE_UNKNOWN


def test_every_task_is_handed_out_once(tmp_path: Path) -> None:
    with running_server(tmp_path) as (_, address), connected(address) as channel:
        fetch = channel.unary_unary(tasks.NEXT, tasks.encode_name, tasks.decode_task)
        assert [fetch("worker", wait_for_ready=True) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_with_watchers_ends_at_once_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with running_server(tmp_path) as (server, address), connected(address) as channel:
        updates = watch(channel)
        next(updates)
        asked_at = time.monotonic()
        server.process.send_signal(number)
        assert server.wait_exit() == 0
        assert time.monotonic() - asked_at < 1


def test_sigterm_during_start_up_is_an_ordinary_stop(tmp_path: Path) -> None:
    with running(tmp_path, "stigmer-server", GRPC_PORT="0") as server:
        while not _handles_sigterm(server.process.pid):
            time.sleep(0.001)
        server.process.terminate()
        assert server.wait_exit() == 0


def test_taken_port_is_an_error_that_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(tmp_path, "stigmer-server", GRPC_PORT=str(port)) as server:
            assert server.wait_exit() == 1
            assert f"127.0.0.1:{port} cannot be bound" in server.output


def test_two_servers_never_share_a_port(tmp_path: Path) -> None:
    with running_server(tmp_path) as (_, address):
        port = address.rpartition(":")[2]
        with running(tmp_path, "stigmer-server", GRPC_PORT=port) as second:
            assert second.wait_exit() == 1


def test_port_that_is_no_number_cannot_be_helped_by_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, "stigmer-server", GRPC_PORT="http") as server:
        assert server.wait_exit() == 78
        assert "GRPC_PORT is 'http'" in server.output


@pytest.mark.parametrize(("text", "port"), [("", 7234), ("0", 0), ("65535", 65535)])
def test_port_comes_from_the_environment(text: str, port: int) -> None:
    assert port_from({"GRPC_PORT": text}) == port


@pytest.mark.parametrize("text", ["-1", "65536", "7234 ", "0x10"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(BadPortError):
        port_from({"GRPC_PORT": text})


def test_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    with running(tmp_path, "web-server") as program:
        assert program.wait_exit() == 2
        assert "stigmer-server" in program.output


def _handles_sigterm(pid: int) -> bool:
    """Whether the process has a handler of its own. Without procfs: assume it after a moment."""
    if not os.path.exists("/proc/self/status"):
        time.sleep(0.1)
        return True
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
