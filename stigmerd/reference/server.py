"""stigmer-server: a gRPC server that tells its health and hands out numbered tasks.

It listens on 127.0.0.1 alone, on ``$GRPC_PORT`` or 7234.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping

import grpc.aio

from stigmerd.reference import health, tasks
from stigmerd.reference.health import Serving

DEFAULT_PORT = 7234
SERVICES = frozenset({"", tasks.SERVICE})
"""What a health check may ask for; "" is the server as a whole."""

FAREWELL = 0.3
"""Seconds that calls under way have to end after SIGTERM."""

log = logging.getLogger("stigmer-server")


class BadPortError(ValueError):
    """``$GRPC_PORT`` is no port number. Restarting does not help."""


class PortTakenError(OSError):
    """The port cannot be bound."""


class Health:
    """``grpc.health.v1``: what this server says about itself."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()

    @property
    def serving(self) -> Serving:
        """Whether the server takes new work."""
        return Serving.NOT_SERVING if self._closing.is_set() else Serving.SERVING

    def close(self) -> None:
        """Say NOT_SERVING from now on, and end every Watch with it."""
        self._closing.set()

    async def check(self, service: str, call: grpc.aio.ServicerContext[str, Serving]) -> Serving:
        """Answer once."""
        if service not in SERVICES:
            await call.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {service!r}")
        return self.serving

    async def watch(
        self, service: str, call: grpc.aio.ServicerContext[str, Serving]
    ) -> AsyncIterator[Serving]:
        """Answer at once, and again on every change.

        An unknown service is no error here: it may come to be. Source: health.proto.
        """
        yield self.serving if service in SERVICES else Serving.SERVICE_UNKNOWN
        await self._closing.wait()
        yield Serving.NOT_SERVING

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[str, Serving]]:
        """The methods, by name."""
        decode, encode = health.decode_request, health.encode_response
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, decode, encode),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, decode, encode),
        }


class Tasks:
    """Hands out task numbers, each once."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    async def next(self, worker: str, call: grpc.aio.ServicerContext[str, int]) -> int:
        """The next number."""
        number = next(self._numbers)
        log.info("task %d goes to %s", number, worker)
        return number

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[str, int]]:
        """The methods, by name."""
        return {"Next": grpc.unary_unary_rpc_method_handler(self.next, tasks.decode_name, tasks.encode_task)}


async def serve(port: int) -> None:
    """Serve until cancelled; then tell the watchers, and end.

    Raises:
        PortTakenError: nobody can be served.
    """
    own_health = Health()
    # With SO_REUSEPORT, gRPC's default, two servers would share the port and each see half the calls.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(health.SERVICE, own_health.handlers()),
            grpc.method_handlers_generic_handler(tasks.SERVICE, Tasks().handlers()),
        ]
    )
    try:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as exc:
        raise PortTakenError(
            f"127.0.0.1:{port} cannot be bound: end whoever listens there, or set GRPC_PORT to another port"
        ) from exc
    await server.start()
    log.info("serving on 127.0.0.1:%d", port)
    try:
        await server.wait_for_termination()
    finally:
        own_health.close()
        await server.stop(FAREWELL)


def port_from(environ: Mapping[str, str]) -> int:
    """The port to listen on; 0 lets the system choose.

    Raises:
        BadPortError: the variable holds something else.
    """
    text = environ.get("GRPC_PORT") or str(DEFAULT_PORT)
    if not text.isdecimal() or int(text) > 65535:
        raise BadPortError(f"GRPC_PORT is {text!r}: give a port number, such as {DEFAULT_PORT}")
    return int(text)
