"""The operator's end: who it talks to, how long it waits, and what it makes of the answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from stigmerd.control import client as client_module
from stigmerd.control.client import (
    ConnectionLostError,
    ControlError,
    DaemonAbsentError,
    DaemonSilentError,
    DeadlinePassedError,
    Notification,
    ProtocolMismatchError,
    RemoteError,
    UntrustedDaemonError,
    connect,
)
from stigmerd.control.server import bind_control_socket
from tests.control.conftest import Serve

Result = TypeVar("Result")


async def blocking(ask: Callable[[], Result]) -> Result:
    """Do what the blocking client does, while the server in this process answers."""
    with trio.fail_after(10):
        return await trio.to_thread.run_sync(ask)


def hello_of(protocol: object) -> bytes:
    """How a daemon of another protocol says hello."""
    result = {"protocol": protocol, "version": "7.7.7", "pid": 1, "more": True}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode() + b"\n"


async def answer_once(listener: socket.socket, answer: bytes) -> None:
    """Accept one peer, and answer its first line in a fixed way."""
    peer, _ = await trio.socket.from_stdlib_socket(listener).accept()
    with peer:
        await peer.recv(1000)
        await peer.send(answer)


async def test_client_learns_whom_it_talks_to_and_gets_results(serve: Serve, tmp_path: Path) -> None:
    def ask() -> tuple[object, ...]:
        with connect(str(tmp_path)) as client:
            stopped = client.call("stop", names=["web"], timeout=None)
            return client.server_version, client.server_pid, client.server_protocol, stopped["components"][0]["name"]

    async with serve():
        assert await blocking(ask) == ("1.2.3", 4711, 1, "web")


async def test_refusal_is_an_exception_with_code_word_and_sentence(serve: Serve, tmp_path: Path) -> None:
    def ask() -> None:
        with connect(str(tmp_path)) as client:
            client.call("stop", names=["nobody"])

    async with serve():
        with pytest.raises(RemoteError, match="there is no component nobody") as refused:
            await blocking(ask)
    assert (refused.value.code, refused.value.name) == (1, "unknown_component")


@pytest.mark.parametrize("made", ["nothing", "folder", "dead socket"])
def test_home_without_a_daemon_has_none(tmp_path: Path, made: str) -> None:
    if made != "nothing":
        (tmp_path / "run").mkdir(mode=0o700)
    if made == "dead socket":
        bind_control_socket(str(tmp_path / "run")).close()
    with pytest.raises(DaemonAbsentError, match="not running"):
        connect(str(tmp_path))


def test_daemon_that_accepts_nobody_is_silent(tmp_path: Path) -> None:
    with bind_control_socket(str(tmp_path / "run")) as listener:
        listener.listen(0)
        begun = time.monotonic()
        waiting = []
        for _ in range(3):  # beyond the backlog there is not even a connection
            with pytest.raises(DaemonSilentError, match=r"within 0\.1 s"):
                waiting.append(connect(str(tmp_path), timeout=0.1))
        assert 0.3 <= time.monotonic() - begun < 2


def test_stopped_daemon_is_silent(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from stigmerd.control.server import bind_control_socket;"
        "listener = bind_control_socket(sys.argv[1]); print('.', flush=True); listener.accept(); signal.pause()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        daemon.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(DaemonSilentError):
                connect(str(tmp_path), timeout=0.2)
            assert 0.2 <= time.monotonic() - begun < 1
        finally:
            daemon.kill()


async def test_connection_that_is_closed_at_once_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    listener = bind_control_socket(str(tmp_path / "run"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_once, listener, b"")

        def ask() -> str:
            with connect(str(tmp_path)) as client:
                return client.server_version

        nursery.start_soon(answer_later, listener)
        assert await blocking(ask) == "7.7.7"
    listener.close()


async def answer_later(listener: socket.socket) -> None:
    """Say hello to the second peer."""
    await trio.sleep(0.02)
    await answer_once(listener, hello_of(1))


async def test_another_protocol_is_an_error_that_names_both_versions(tmp_path: Path) -> None:
    with bind_control_socket(str(tmp_path / "run")) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_once, listener, hello_of(2))
            with pytest.raises(ProtocolMismatchError, match=r"7\.7\.7 \(protocol 2\).*\(protocol 1\)"):
                await blocking(lambda: connect(str(tmp_path)))


async def test_another_protocol_is_accepted_where_the_form_is_the_same_in_all(tmp_path: Path) -> None:
    def ask() -> object:
        with connect(str(tmp_path), any_protocol=True) as client:
            return client.server_protocol

    with bind_control_socket(str(tmp_path / "run")) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_once, listener, hello_of(2))
            assert await blocking(ask) == 2


@pytest.mark.parametrize("answer", [b"220 smtp ready\n", b"[]\n", b"\xff\n", b'{"jsonrpc":"2.0","id":1,"result":3}\n'])
async def test_what_is_no_stigmerd_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with bind_control_socket(str(tmp_path / "run")) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_once, listener, answer)
            with pytest.raises(ControlError, match="no stigmerd"):
                await blocking(lambda: connect(str(tmp_path)))


def test_folder_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    with bind_control_socket(str(tmp_path / "run")):
        os.chmod(tmp_path / "run", 0o770)
        with pytest.raises(UntrustedDaemonError, match="chmod 700"):
            connect(str(tmp_path))


def test_symlink_in_place_of_the_folder_or_the_socket_is_not_followed(tmp_path: Path) -> None:
    with bind_control_socket(str(tmp_path / "real")):
        (tmp_path / "run").symlink_to("real")
        with pytest.raises(ControlError, match="run"):
            connect(str(tmp_path))
        (tmp_path / "run").unlink()
        (tmp_path / "run").mkdir(mode=0o700)
        (tmp_path / "run/stigmerd.sock").symlink_to(tmp_path / "real/stigmerd.sock")
        with pytest.raises(UntrustedDaemonError, match="not a socket"):
            connect(str(tmp_path))


def test_server_of_another_user_is_not_spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "peer_uid", lambda _: os.geteuid() + 1)
    with bind_control_socket(str(tmp_path / "run")) as listener:
        with pytest.raises(UntrustedDaemonError, match="another user"):
            connect(str(tmp_path))
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1) == b""


async def test_deadline_of_the_caller_ends_the_wait_and_not_the_work(serve: Serve, tmp_path: Path) -> None:
    def ask() -> dict[str, Any]:
        with connect(str(tmp_path)) as client:
            with pytest.raises(DeadlinePassedError):
                client.call("stop", deadline=time.monotonic() + 0.05)
            trio.from_thread.run_sync(served.operations.work.set)
            return client.call("hello")

    async with serve() as served:
        served.operations.work = trio.Event()
        assert (await blocking(ask))["pid"] == 4711, "the late answer is not taken for this one's"
        assert served.operations.ended == ["stop"]


async def test_subscription_yields_until_the_daemon_ends(serve: Serve, tmp_path: Path) -> None:
    told: list[Notification] = []

    def ask() -> None:
        with connect(str(tmp_path)) as client:
            notifications = client.subscribe("events.subscribe", since=0)
            client.call("hello")
            trio.from_thread.run_sync(served.operations.record)
            told.append(next(notifications))
            told.append(next(notifications))
            with pytest.raises(DeadlinePassedError):
                client.next_notification(time.monotonic() + 0.02)
            client.call("shutdown")
            told.extend(notifications)

    async with serve() as served:
        served.operations.record()
        await blocking(ask)
    assert [(notification.method, notification.params["seq"]) for notification in told] == [("event", 1), ("event", 2)]


async def test_connection_that_ends_in_the_middle_is_lost(serve: Serve, tmp_path: Path) -> None:
    def ask() -> None:
        with connect(str(tmp_path)) as client:
            client.call("shutdown")
            with pytest.raises(ConnectionLostError):
                client.call("hello")

    async with serve():
        await blocking(ask)


def test_importing_the_client_brings_in_little() -> None:
    program = "import sys, stigmerd.control.client; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"trio", "msgspec", "dataclasses", "asyncio", "logging", "tempfile", "subprocess"} & set(modules)
