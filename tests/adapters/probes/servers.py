"""Servers to be probed, good and hostile, and how an attempt is bounded and measured."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import trio

from stigmerd.adapters.probes import StagedProbe
from stigmerd.adapters.probes.health_check import METHOD
from stigmerd.core.health import Outcome

Talk = Callable[[trio.SocketStream], Awaitable[None]]

SLACK = 0.1
"""Seconds that an attempt may take longer than its limit."""


@contextlib.asynccontextmanager
async def serving(talk: Talk, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A TCP server on a free port that lets ``talk`` speak to each client."""

    async def talk_until_broken(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await talk(stream)

    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, talk_until_broken, 0, host=host)
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def attempt(probe: StagedProbe, limit: float = 1.0) -> Outcome | None:
    """One attempt within ``limit`` seconds, as the engine makes it; None when it was cut off."""
    began = trio.current_time()
    outcome = None
    with trio.move_on_after(limit):
        outcome = await probe.attempt()
    assert trio.current_time() - began < limit + SLACK
    return outcome


def holdings() -> tuple[int, int]:
    """How many descriptors and threads this process has."""
    return len(os.listdir("/dev/fd")), threading.active_count()


async def wait_holdings(baseline: tuple[int, int]) -> None:
    """Wait until no more descriptors and threads are held than in ``baseline``."""
    with trio.fail_after(20):
        # The kernel and grpcio announce nothing that could be awaited.
        while any(now > then for now, then in zip(holdings(), baseline, strict=True)):
            await trio.sleep(0.01)


async def be_silent(stream: trio.SocketStream) -> None:
    """Say nothing until the client goes."""
    while await stream.receive_some():
        pass


def saying(text: bytes) -> Talk:
    """Wait for the client's first words, answer with ``text`` and close."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(text)

    return talk


def dripping(head: bytes, drop: bytes) -> Talk:
    """Answer with ``head``, and then one ``drop`` every few milliseconds, for ever."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(head)
        while True:
            await trio.sleep(0.02)
            await stream.send_all(drop)

    return talk


def flooding(head: bytes, flood: bytes) -> Talk:
    """Answer with ``head``, and then with ``flood`` as fast as it is taken, for ever."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(head)
        while True:
            await stream.send_all(flood)

    return talk


Check = Callable[[bytes, Any], bytes]


class _Health(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    def __init__(self, check: Check) -> None:
        self._check = check

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)


@contextlib.contextmanager
def grpc_serving(
    check: Check | None,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[int]:
    """A grpcio server whose health service is ``check``; None has no health service."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[] if check is None else [_Health(check)])
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def service_of(request: bytes) -> str:
    """The service that a HealthCheckRequest names; shorter than 128 bytes."""
    return request[2:].decode()


def answering(status: int) -> Check:
    """A health service that has one answer."""
    return lambda request, context: bytes([8, status])
