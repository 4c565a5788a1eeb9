"""Who listens on a port: with procfs, and with psutil as on other systems."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stigmerd.adapters import ports
from stigmerd.adapters.ports import PortWatch

NOBODY: frozenset[int] = frozenset()
OURS = frozenset({os.getpid()})

LISTEN = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["procfs", "psutil"])
def watch(request: pytest.FixtureRequest) -> PortWatch:
    """Both ways to look."""
    if request.param == "procfs" and sys.platform != "linux":
        pytest.skip("Linux only: procfs")
    return PortWatch(procfs=request.param == "procfs")


@contextlib.contextmanager
def listening_child(*arguments: str) -> Iterator[tuple[int, int]]:
    """A process that listens: its pid and its port."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        try:
            yield child.pid, int(child.stdout.readline())
        finally:
            child.kill()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_port_that_nobody_listens_on_has_no_stranger(watch: PortWatch) -> None:
    assert await watch.strangers([], NOBODY) is None
    assert await watch.strangers([closed_port()], NOBODY) is None


async def test_listener_that_is_ours_is_no_stranger(watch: PortWatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert await watch.strangers([port], OURS) is None
        # A connection on the port, from or to it, is no listener.
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert await watch.strangers([client.getsockname()[1]], NOBODY) is None


async def test_stranger_is_named_with_pid_and_command(watch: PortWatch) -> None:
    with listening_child() as (pid, port):
        found = await watch.strangers([closed_port(), port], OURS)
        assert await watch.strangers([port], frozenset({pid})) is None
    assert found is not None
    assert found.startswith(f"port {port} is taken by pid {pid} ({sys.executable} -c ?import socket, sys?")
    assert len(found) < 140
    assert found.isprintable()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="Linux only: this machine has no IPv6")
async def test_listener_on_ipv6_is_seen(watch: PortWatch) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        assert await watch.strangers([port], OURS) is None
        assert f"port {port} is taken by pid {os.getpid()} " in str(await watch.strangers([port], NOBODY))


async def test_stranger_beside_our_own_listener_is_seen() -> None:
    if sys.platform != "linux":
        pytest.skip("Linux only: sockets of one port cannot be told apart elsewhere")
    with socket.socket() as ours, socket.socket() as theirs:
        for listener in (ours, theirs):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", ours.getsockname()[1]))
            listener.listen()
        port = ours.getsockname()[1]
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.readline()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            theirs.close()
            found = await PortWatch().strangers([port], OURS)
            child.kill()
    assert found is not None
    assert found.startswith(f"port {port} is taken by pid {child.pid} ")


async def test_owner_that_cannot_be_seen_is_another_users(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux only: procfs")
    monkeypatch.setattr(ports, "_open_files", lambda pid: iter(()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = await PortWatch().strangers([port], OURS)
    assert found == f"port {port} is taken by another user's process"


async def test_listener_that_goes_during_the_search_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux only: procfs")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_it(pid: int) -> Iterator[str]:
            listener.close()
            return iter(())

        port = listener.getsockname()[1]
        monkeypatch.setattr(ports, "_open_files", close_it)
        assert await PortWatch().strangers([port], OURS) is None


async def test_nothing_is_searched_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux only: procfs")
    monkeypatch.setattr(ports, "_holders", None)
    assert await PortWatch().strangers([closed_port()], NOBODY) is None
