"""The control socket: where it is, whose it is, and that it is there again when somebody takes it away."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from stigmerd.control import endpoint, server
from stigmerd.control.limits import Limits
from stigmerd.control.server import ACCEPT_PAUSE, ControlSocketError, bind_control_socket
from tests.control.conftest import Serve, Served
from tests.control.fakes import connect_in, connect_peer, new_socket

OFTEN = Limits(watch=0.02)

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

ASK_HELLO = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(5)
peer.connect(sys.argv[1])
try:
    peer.sendall(b'{"jsonrpc":"2.0","id":1,"method":"hello"}\\n')
    print(len(peer.recv(1000)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""


def is_socket(path: Path) -> bool:
    """Whether a socket lies there."""
    return path.exists() and stat.S_ISSOCK(path.lstat().st_mode)


async def wait_answering(served: Served) -> None:
    """Wait until somebody answers at the socket's place."""
    with trio.fail_after(5):
        while True:
            with contextlib.suppress(OSError):
                async with await served.connect() as peer:
                    assert "result" in await peer.call("hello")
                    return
            await trio.sleep(0.01)


async def test_socket_and_folder_are_for_their_owner_alone(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    async with serve() as served:
        await wait_answering(served)
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "run/stigmerd.sock").stat().st_mode) == 0o600


async def test_socket_is_gone_after_the_server(serve: Serve, tmp_path: Path) -> None:
    async with serve() as served:
        await wait_answering(served)
    assert not (tmp_path / "run/stigmerd.sock").exists()


@pytest.mark.parametrize("has_proc", [True, False])
def test_home_of_any_length_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_proc: bool) -> None:
    if not has_proc:
        monkeypatch.setattr(endpoint, "DESCRIPTORS", "/nonexistent")
    home = tmp_path.joinpath(*["d" * 200] * 5)
    home.mkdir(parents=True)

    async def talk() -> None:
        listener = bind_control_socket(str(home / "run"))
        with listener:
            async with await connect_peer(str(home / "run")):
                assert is_socket(home / "run/stigmerd.sock")

    trio.run(talk)


async def test_socket_of_a_dead_daemon_is_replaced(serve: Serve, tmp_path: Path) -> None:
    bind_control_socket(str(tmp_path / "run")).close()
    assert is_socket(tmp_path / "run/stigmerd.sock")
    async with serve() as served:
        await wait_answering(served)


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/stigmerd.sock").write_text("mine")
    with pytest.raises(ControlSocketError, match=r"stigmerd\.sock is not a socket: remove it"):
        bind_control_socket(str(tmp_path / "run"))
    assert (tmp_path / "run/stigmerd.sock").read_text() == "mine"


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_run_folder_that_is_none_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    if kind == "symlink":
        (tmp_path / "run").symlink_to("elsewhere")
    else:
        (tmp_path / "run").touch()
    with pytest.raises(ControlSocketError, match=str(tmp_path / "run")):
        bind_control_socket(str(tmp_path / "run"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@needs_root
def test_run_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    with pytest.raises(ControlSocketError, match="belongs to another user"):
        bind_control_socket(str(tmp_path / "run"))


async def test_socket_that_was_removed_is_made_again(serve: Serve, tmp_path: Path) -> None:
    async with serve(OFTEN) as served, await served.connect() as old:
        (tmp_path / "run/stigmerd.sock").unlink()
        await wait_answering(served)
        assert "result" in await old.call("hello"), "who was connected still is"
        assert stat.S_IMODE((tmp_path / "run/stigmerd.sock").stat().st_mode) == 0o600
    assert len(served.problems) == 1


async def test_socket_that_was_replaced_by_another_is_made_again(serve: Serve, tmp_path: Path) -> None:
    async with serve(OFTEN) as served:
        bind_control_socket(str(tmp_path / "run")).close()
        await wait_answering(served)


async def test_socket_is_made_again_with_its_folder(serve: Serve, tmp_path: Path) -> None:
    async with serve(OFTEN) as served:
        shutil.rmtree(tmp_path / "run")
        await wait_answering(served)
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


async def test_socket_that_cannot_be_made_again_is_reported_once_and_tried_on(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "run/stigmerd.sock"
    async with serve(OFTEN) as served:
        path.unlink()
        path.mkdir()
        while not served.problems:
            await trio.sleep(OFTEN.watch)
        await trio.sleep(5 * OFTEN.watch)  # and is tried on meanwhile
        assert [message for message, _ in served.problems] == [f"{path} is not a socket: remove it"]
        path.rmdir()
        await wait_answering(served)


async def test_listener_that_was_inherited_serves_who_waited_at_it(serve: Serve, tmp_path: Path) -> None:
    listener = bind_control_socket(str(tmp_path / "run"))
    waiting = await connect_peer(str(tmp_path / "run"))
    inherited = socket.socket(fileno=listener.detach())
    async with serve(listener=inherited) as served, waiting:
        assert "result" in await waiting.call("hello")
        assert served.server.listener is inherited
        await wait_answering(served)


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Within the block this process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    # Above every number in use: one that is given back has to be of use again.
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


async def test_operators_are_served_one_after_the_other_without_a_descriptor_left(serve: Serve) -> None:
    async with serve() as served:
        await wait_answering(served)
        await trio.testing.wait_all_tasks_blocked()  # else the server still gives a descriptor back
        folder = endpoint.open_folder(served.run_dir)
        unconnected = [new_socket() for _ in range(3)]
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, folder)
            for free in unconnected:
                opened.enter_context(free)
            with no_descriptors_left(), trio.fail_after(5):
                for free in unconnected:
                    operator = await connect_in(folder, served.run_dir, free)
                    assert "result" in await operator.call("hello")
                    await trio.sleep(1.5 * ACCEPT_PAUSE)
                    assert "result" in await operator.call("hello"), "displaced though nobody else came"
        await wait_answering(served)
    assert "cannot accept" in served.problems[0][0]


def run_as_nobody(address: str) -> subprocess.CompletedProcess[str]:
    """Ask for hello at a socket as another user, with a Python that every user can run."""
    command = ["/usr/bin/python3", "-I", "-c", ASK_HELLO, address]
    return subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True, timeout=20
    )


@pytest.fixture
def open_folder_for_all() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


async def test_peer_of_another_user_is_not_answered(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as served:
        await wait_answering(served)
        monkeypatch.setattr(server, "own_uids", lambda: frozenset({os.geteuid() + 1}))
        async with await served.connect() as peer:
            assert await peer.receive() is None


@needs_root
async def test_another_user_cannot_reach_the_socket(open_folder_for_all: Path) -> None:
    with bind_control_socket(str(open_folder_for_all / "run")):
        socket_path = str(open_folder_for_all / "run/stigmerd.sock")
        done = await trio.to_thread.run_sync(run_as_nobody, socket_path)
    assert "PermissionError" in done.stderr


@needs_root
async def test_another_user_who_reaches_the_socket_is_not_answered(serve: Serve, open_folder_for_all: Path) -> None:
    async with serve(Limits(watch=60), home=open_folder_for_all) as served:
        await wait_answering(served)
        socket_path = open_folder_for_all / "run/stigmerd.sock"
        os.chmod(socket_path.parent, 0o711)
        os.chmod(socket_path, 0o666)
        done = await trio.to_thread.run_sync(run_as_nobody, str(socket_path))
        assert done.stdout == "0\n", done.stderr
        await wait_answering(served)


@needs_root
def test_another_user_is_answered_by_a_server_that_does_not_ask_who_it_is(open_folder_for_all: Path) -> None:
    """The control of the tests above: nothing but the check stands between that user and an answer."""
    path = str(open_folder_for_all / "free.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen()

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"hello")

        answering = threading.Thread(target=answer)
        answering.start()
        done = run_as_nobody(path)
        answering.join()
    assert done.stdout == "5\n", done.stderr
