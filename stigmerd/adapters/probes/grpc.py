"""The probe that asks ``grpc.health.v1``.

Every attempt has a channel of its own: a kept one sees a server that came back up to 25 s late,
in its reconnection backoff. The call is a grpcio future whose end wakes the Trio task, so that an
attempt takes no thread of Trio's, and cancelling it lets go at once. grpcio calls a closed port, an
HTTP/1 server and a failed TLS handshake all UNAVAILABLE; a connection of our own tells them apart.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import ssl
from collections.abc import Sequence
from urllib.parse import quote as percent_encode

import trio

from stigmerd.adapters.probes import health_check
from stigmerd.adapters.probes.connect import connect
from stigmerd.adapters.probes.failure import AttemptFailedError, Conceal, no_more_threads, quote
from stigmerd.adapters.probes.http2 import shake_hands
from stigmerd.adapters.probes.resolve import Address, Resolver
from stigmerd.adapters.probes.tls import TlsFiles, secure
from stigmerd.core.health import Outcome
from stigmerd.core.spec import PROBE_CEILING, GrpcHandler

# grpcio reads these at its first import. Its fork support kills children that are spawned while
# calls are in flight; its log lines would go to our stderr; and its own trust store is not the
# system's. Children see none of it: their environment was copied when the daemon started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
if trust := ssl.get_default_verify_paths().cafile:
    os.environ.setdefault("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", trust)

import grpc

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel is given an old one's backoff
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", 4096),
    # Also the limit of a handshake. Its default keeps the socket to a hung server for 20 s.
    ("grpc.min_reconnect_backoff_ms", int(PROBE_CEILING * 1000)),
)

SILENCE = 0.2
"""Seconds without an answer after which the server is asked for a mere handshake: one that is stopped makes
none, and one that hangs in its handler does."""


class GrpcProbe:
    """Asks one address about one service. ``stage`` says what the present attempt does."""

    def __init__(self, handler: GrpcHandler, resolver: Resolver, conceal: Conceal) -> None:
        self.stage = ""
        self._handler = handler
        self._resolver = resolver
        self._conceal = conceal
        self._tls = TlsFiles(handler.tls) if handler.tls is not None else None
        path = handler.address.removeprefix("unix:")
        self._unix_path = path if path != handler.address else None

    async def attempt(self) -> Outcome:
        """Pass when the server says SERVING; with ``connect_only``, when it speaks HTTP/2."""
        try:
            addresses = await self._wait_addresses()
            if not self._handler.connect_only:
                return await self._check(await self._choose(addresses))
            await self._shake_hands(addresses)
            return Outcome(passed=True)
        except AttemptFailedError as exc:
            return exc.outcome

    async def _wait_addresses(self) -> Sequence[Address]:
        if self._unix_path is not None:
            return (Address(trio.socket.AF_UNIX, self._unix_path),)
        self.stage = "resolving the name"
        host, _, port = self._handler.address.rpartition(":")
        return await self._resolver.wait_addresses(host.strip("[]"), int(port))

    async def _choose(self, addresses: Sequence[Address]) -> Address:
        """The address to call: where a name has several, the first that takes a connection."""
        if len(addresses) == 1:
            return addresses[0]
        self.stage = "connecting"
        stream = await connect(addresses)
        with stream.socket as connection:
            return Address(connection.family, connection.getpeername())

    async def _check(self, address: Address) -> Outcome:
        credentials = await self._credentials()
        with self._channel(address, credentials) as channel:
            future = _start_check(channel, self._handler.service)
            async with trio.open_nursery() as tasks:
                tasks.start_soon(self._tell_hangs_apart, address)
                await _wait_done(future)
                tasks.cancel_scope.cancel()
        code = future.code()
        if code is grpc.StatusCode.OK:
            return _judge_answer(future.result(), self._handler.service)
        if code is grpc.StatusCode.UNAVAILABLE:
            await self._shake_hands([address])  # raises the true reason, unless a server said UNAVAILABLE
        return _judge_error(code, quote(future.details() or "", self._conceal), self._handler.service)

    async def _tell_hangs_apart(self, address: Address) -> None:
        """Let ``stage`` say where a server that does not answer hangs."""
        answer = self.stage = "waiting for the health service's answer"
        await trio.sleep(SILENCE)
        with contextlib.suppress(AttemptFailedError):
            await self._shake_hands([address])
        self.stage = answer

    async def _credentials(self) -> grpc.ChannelCredentials | None:
        if self._tls is None:
            return None
        self.stage = "reading the files of the tls table"
        pems = await self._tls.read()
        return grpc.ssl_channel_credentials(pems.ca, pems.key, pems.cert)

    def _channel(self, address: Address, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        options = (*OPTIONS, ("grpc.default_authority", self._authority))
        if credentials is None:
            return grpc.insecure_channel(_target(address), options=options)
        name = ("grpc.ssl_target_name_override", self._server_name)
        return grpc.secure_channel(_target(address), credentials, options=(*options, name))

    async def _shake_hands(self, addresses: Sequence[Address]) -> None:
        """Speak the first words of HTTP/2 over a connection of our own; raise what goes wrong."""
        context = None
        if self._tls is not None:
            self.stage = "reading the files of the tls table"
            context = await self._tls.context()
        self.stage = "connecting"
        raw = await connect(addresses)
        try:
            stream: trio.abc.Stream = raw
            if context is not None:
                self.stage = "shaking hands over TLS"
                stream = await secure(raw, context, self._server_name)
            self.stage = "waiting for the HTTP/2 handshake"
            await shake_hands(stream)
        finally:
            raw.socket.close()

    @property
    def _authority(self) -> str:
        return self._handler.address if self._unix_path is None else "localhost"

    @property
    def _server_name(self) -> str:
        """The name that the server's certificate must be for."""
        tls = self._handler.tls
        if tls is not None and tls.server_name is not None:
            return tls.server_name
        return self._authority.rpartition(":")[0].strip("[]") or self._authority


def _target(address: Address) -> str:
    """The address in grpcio's words, which it neither resolves nor sends through a proxy."""
    if address.family == trio.socket.AF_UNIX:
        return f"unix:{percent_encode(address.sockaddr)}"
    host, port = address.sockaddr[:2]
    if address.family == trio.socket.AF_INET6:
        return f"ipv6:[{percent_encode(host, safe=':')}]:{port}"
    return f"ipv4:{host}:{port}"


def _start_check(channel: grpc.Channel, service: str) -> grpc.CallFuture[bytes]:
    """Begin the call; its end comes on a thread of grpcio's that lives as long as the call."""
    try:
        # When that thread cannot be started, closing the channel waits for it for ever. So try first.
        _thread.start_new_thread(int, ())
    except RuntimeError as exc:
        raise no_more_threads() from exc
    check = channel.unary_unary(health_check.METHOD, request_serializer=bytes, response_deserializer=bytes)
    return check.future(health_check.encode_request(service))


async def _wait_done(future: grpc.CallFuture[bytes]) -> None:
    """Wait for the end of a call; cancelling the wait cancels the call."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wake(_: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    future.add_done_callback(wake)
    try:
        await done.wait()
    finally:
        future.cancel()  # type: ignore[no-untyped-call]  # does nothing where the call has ended


def _judge_answer(message: bytes, service: str) -> Outcome:
    try:
        status = health_check.decode_status(message)
    except ValueError:
        return Outcome(passed=False, message="the answer is not one of grpc.health.v1")
    if status == health_check.SERVICE_UNKNOWN:
        return _unknown_service(service)
    name = health_check.STATUS_NAMES.get(status, f"status {status}")
    return Outcome(passed=status == health_check.SERVING, message=name)


def _judge_error(code: grpc.StatusCode, details: str, service: str) -> Outcome:
    if code is grpc.StatusCode.NOT_FOUND:
        return _unknown_service(service)
    # grpcio says UNIMPLEMENTED for HTTP's 404 as well: a web server that knows nothing of gRPC.
    if code is grpc.StatusCode.UNIMPLEMENTED and "http2 header with status" not in details:
        return Outcome(passed=not service, message="no health service")
    return Outcome(passed=False, message=f"{code.name}: {details}" if details else code.name)


def _unknown_service(service: str) -> Outcome:
    """``service`` stays unnamed: it may hold a secret."""
    which = "this service" if service else "the empty service name"
    return Outcome(passed=False, message=f"unknown service: the server does not know {which}")
