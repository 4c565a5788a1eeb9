"""workflow-runner and agent-runner: workers that fetch tasks from the server and do them.

A worker watches the server's health, works while it is SERVING, and connects again when the
stream breaks. When it could do nothing for ``PATIENCE`` seconds it exits with an error, so that
whoever supervises it knows.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import grpc.aio

from stigmerd.reference import health, tasks
from stigmerd.reference.health import Serving

DEFAULT_ENDPOINT = "127.0.0.1:7234"
PERIOD = 5.0
"""Seconds between two tasks."""
ANSWER_TIMEOUT = 2.0
"""Seconds in which the server has to answer."""
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0
"""Seconds between two attempts to connect: doubled from the first to the longest."""
PATIENCE = 30.0
"""Seconds without the server after which a worker gives up."""

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # or calls to this machine go to $http_proxy
    ("grpc.use_local_subchannel_pool", 1),  # or the next channel inherits this one's reconnect backoff
)


class ServerAwayError(Exception):
    """No work could be had for too long."""


def endpoint_from(environ: Mapping[str, str]) -> str:
    """Where the server is, ``HOST:PORT``."""
    endpoint = environ.get("STIGMER_BACKEND_ENDPOINT") or DEFAULT_ENDPOINT
    host, _, port = endpoint.rpartition(":")
    # The server listens on IPv4 alone, and ::1 may belong to somebody else.
    return f"127.0.0.1:{port}" if host == "localhost" else endpoint


@dataclass(kw_only=True)
class Worker:
    """One worker. ``name`` is how it shows in the server's log; durations are seconds."""

    name: str
    endpoint: str
    period: float = PERIOD
    patience: float = PATIENCE
    _worked_at: float = field(default=0.0, init=False)

    @property
    def log(self) -> logging.Logger:
        """The worker's own log."""
        return logging.getLogger(self.name)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            ServerAwayError: no work could be done for ``patience``.
        """
        self.log.info("working for %s", self.endpoint)
        self._worked_at = _now()
        delay = FIRST_DELAY
        while True:
            worked_at = self._worked_at
            reason = await self._work_until_lost()
            if self._idle_too_long():
                raise ServerAwayError(f"no work from {self.endpoint} for {self.patience:.0f} s: {reason}")
            if self._worked_at > worked_at:
                delay = FIRST_DELAY
            self.log.warning("lost %s (%s); next attempt in %.1f s", self.endpoint, reason, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    async def _work_until_lost(self) -> str:
        """Connect and work; say what ended it."""
        # A channel of its own for every attempt: a kept one would wait out gRPC's own backoff first.
        async with grpc.aio.insecure_channel(self.endpoint, options=CHANNEL_OPTIONS) as channel:
            watch = channel.unary_stream(
                health.WATCH,
                request_serializer=health.encode_request,
                response_deserializer=health.decode_response,
            )
            try:
                return await self._work_while_serving(channel, aiter(watch("")))
            except TimeoutError:
                return f"no answer within {ANSWER_TIMEOUT:.0f} s"
            except grpc.aio.AioRpcError as exc:
                return exc.details() or exc.code().name

    async def _work_while_serving(self, channel: grpc.aio.Channel, updates: AsyncIterator[Serving]) -> str:
        """Do a task each period while the server says SERVING. ``updates`` is the Watch stream."""
        async with asyncio.timeout(ANSWER_TIMEOUT):
            serving = await _next_update(updates)
        following = asyncio.create_task(_next_update(updates))
        try:
            while serving is not None:
                if serving is Serving.SERVING:
                    await self._do_next_task(channel)
                elif self._idle_too_long():
                    return f"the server says {serving.name}"
                await asyncio.wait({following}, timeout=self.period)
                if following.done():
                    serving = following.result()
                    following = asyncio.create_task(_next_update(updates))
        finally:
            following.cancel()
        return "the server ended the stream"

    async def _do_next_task(self, channel: grpc.aio.Channel) -> None:
        fetch = channel.unary_unary(
            tasks.NEXT, request_serializer=tasks.encode_name, response_deserializer=tasks.decode_task
        )
        number = await fetch(self.name, timeout=ANSWER_TIMEOUT)
        result = hashlib.sha256(tasks.encode_task(number)).hexdigest()
        self._worked_at = _now()
        self.log.info("task %d is done: %s", number, result[:12])

    def _idle_too_long(self) -> bool:
        return _now() - self._worked_at >= self.patience


async def _next_update(updates: AsyncIterator[Serving]) -> Serving | None:
    """What the server says next, or None when it ends the stream."""
    return await anext(updates, None)


def _now() -> float:
    return asyncio.get_running_loop().time()
