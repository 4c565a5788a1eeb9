"""The tcp probe, and what all probes share: connecting and looking names up."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from stigmerd.adapters.probes.failure import from_os_error
from stigmerd.adapters.probes.resolve import LOOKUPS_PER_NAME, Resolver
from stigmerd.adapters.probes.tcp import TcpProbe
from stigmerd.core.health import Outcome
from stigmerd.core.spec import TcpHandler
from tests.adapters.probes.servers import attempt, be_silent, holdings, serving, wait_holdings


def probe_of(port: int, host: str = "127.0.0.1", resolver: Resolver | None = None) -> TcpProbe:
    return TcpProbe(TcpHandler(host=host, port=port), resolver or Resolver())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class BoundSockets(trio.abc.SocketFactory):
    """Makes sockets whose own port is the one that they will be connected to."""

    def __init__(self, port: int) -> None:
        self._port = port

    def socket(self, family: Any = socket.AF_INET, type: Any = socket.SOCK_STREAM, proto: int = 0) -> Any:  # noqa: A002
        made = socket.socket(family, type, proto)
        made.bind(("127.0.0.1", self._port))
        return trio.socket.from_stdlib_socket(made)


class HangingNames:
    """A name server that does not answer until it is let go; addresses in digits are no business of it."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked = 0

    def __call__(self, host: str, port: int, **options: Any) -> Sequence[tuple[Any, ...]]:
        if options.get("flags") != socket.AI_NUMERICHOST and host == "slow.test":
            self.asked += 1
            self.let_go.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return socket.getaddrinfo(host, port, **options)


async def test_open_port_passes() -> None:
    async with serving(be_silent) as port:
        assert await attempt(probe_of(port)) == Outcome(passed=True)


async def test_name_with_several_addresses_passes_when_one_of_them_listens() -> None:
    async with serving(be_silent) as port:

        def lookup(host: str, port: int, **options: Any) -> Sequence[tuple[Any, ...]]:
            if options.get("flags") == socket.AI_NUMERICHOST:
                raise socket.gaierror
            addresses = ("127.0.0.2", "127.0.0.1")
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in addresses]

        assert await attempt(probe_of(port, "two.test", Resolver(lookup))) == Outcome(passed=True)


async def test_closed_port_is_refused() -> None:
    assert await attempt(probe_of(free_port())) == Outcome(passed=False, message="connection refused")


async def test_connection_to_itself_is_a_failure() -> None:
    port = free_port()
    trio.socket.set_custom_socket_factory(BoundSockets(port))
    try:
        outcome = await attempt(probe_of(port))
    finally:
        trio.socket.set_custom_socket_factory(None)
    assert outcome == Outcome(passed=False, message="nothing listens: the connection reached itself")


async def test_server_that_accepts_no_more_is_cut_off_while_connecting() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        probe = probe_of(full.getsockname()[1])
        baseline = holdings()
        outcome = await attempt(probe, limit=0.2)
        if outcome is None:  # a system that lets more wait than it was told connects
            assert probe.stage == "connecting"
        await wait_holdings(baseline)


async def test_many_attempts_leave_nothing_behind() -> None:
    async with serving(be_silent) as port:
        probe, refused = probe_of(port), probe_of(free_port())
        await attempt(probe)
        baseline = holdings()
        for _ in range(200):
            await attempt(probe)
            await attempt(refused)
        await wait_holdings(baseline)


async def test_slow_name_is_cut_off_and_holds_few_threads() -> None:
    names = HangingNames()
    resolver = Resolver(names)
    probe = probe_of(80, "slow.test", resolver)
    async with serving(be_silent) as port:
        try:
            for _ in range(LOOKUPS_PER_NAME + 3):
                assert await attempt(probe, limit=0.02) is None
            assert names.asked == LOOKUPS_PER_NAME
            assert probe.stage == "resolving the name"
            others = await attempt(probe_of(port, "localhost", resolver))
            assert others == Outcome(passed=True)
        finally:
            names.let_go.set()


async def test_unknown_name_fails_with_the_reason() -> None:
    def lookup(*_: object, **__: object) -> Sequence[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    outcome = await attempt(probe_of(80, "nobody.test", Resolver(lookup)))
    assert outcome == Outcome(passed=False, message="the name does not resolve: Name or service not known")


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".test"])
async def test_text_that_is_no_host_name_fails(name: str) -> None:
    outcome = await attempt(probe_of(80, name))
    assert outcome is not None
    assert not outcome.passed


def test_shortage_of_the_daemon_tells_nothing_of_the_component() -> None:
    outcome = from_os_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE))).outcome
    assert outcome == Outcome(passed=False, message="too many open files", conclusive=False)
    outcome = from_os_error(OSError(errno.EMFILE, ""), "tls.ca_file").outcome
    assert outcome == Outcome(passed=False, message="tls.ca_file: too many open files", conclusive=False)
    assert from_os_error(OSError(errno.EHOSTUNREACH, "")).outcome.conclusive
