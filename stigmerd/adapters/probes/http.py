"""The probe that makes an HTTP/1.1 request. Never through a proxy, never to another host.

Every request has a connection of its own, closed with the attempt. Whatever the server sends, no
more than ``HEAD_LIMIT`` and ``BODY_LIMIT`` bytes of it are read, in small pieces, so memory stays
flat; the caller's scope bounds the time. ``https`` is verified against the system's trust store.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote as percent_encode
from urllib.parse import unquote, urljoin, urlsplit

import httpcore
import trio

from stigmerd import __version__
from stigmerd.adapters.probes.connect import connect
from stigmerd.adapters.probes.failure import AttemptFailedError, Conceal, quote
from stigmerd.adapters.probes.resolve import Resolver
from stigmerd.adapters.probes.tls import secure, system_trust
from stigmerd.core.health import Outcome
from stigmerd.core.spec import HttpHandler

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
BECOME_GET = frozenset({301, 302, 303})
"""Redirects after which clients ask again with GET. Source: RFC 9110, section 15.4."""

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 10 * 1024
PIECE = 2 * 1024
"""Bytes that one read may bring. What comes with the end of the head is at most that much body."""

DEFAULT_PORTS = {"http": 80, "https": 443}
UNRESERVED = "/%:=&?~+!$,;'@()*[]-._"


class TooLongError(Exception):
    """The server has sent as many bytes as it was allowed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parsed URL. ``user`` is ``NAME:PASSWORD`` where the URL holds one."""

    scheme: str
    host: str
    port: int
    path: str
    user: str | None = None

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises ValueError for what is no URL."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError("not an http or https address")
        query = f"?{parts.query}" if parts.query else ""
        user = None
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(
            scheme=parts.scheme,
            host=parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode(),
            port=parts.port or DEFAULT_PORTS[parts.scheme],
            path=percent_encode((parts.path or "/") + query, safe=UNRESERVED),
            user=user,
        )

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a redirect may not change."""
        return f"{self.scheme}://{self._bracketed}:{self.port}"

    @property
    def host_header(self) -> str:
        """The host, with the port unless it is the scheme's own."""
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return self._bracketed + port

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class HttpProbe:
    """Asks a URL and judges the status. ``stage`` says what the present attempt does."""

    def __init__(self, handler: HttpHandler, resolver: Resolver, conceal: Conceal) -> None:
        self.stage = ""
        self._handler = handler
        self._resolver = resolver
        self._conceal = conceal

    async def attempt(self) -> Outcome:
        """Pass when the status is within the range, and the first 10 KiB of the body have come."""
        try:
            return await self._ask_and_follow()
        except AttemptFailedError as exc:
            return exc.outcome
        except httpcore.NetworkError as exc:
            return Outcome(passed=False, message=str(exc))

    async def _ask_and_follow(self) -> Outcome:
        url, method = self._handler.url, self._handler.method
        for _ in range(MAX_REDIRECTS + 1):
            target = _parse(url, "the url")
            async with self._exchange(target, method) as (response, wire):
                location = _location(response)
                if location is None:
                    return await self._judge(response, wire)
            url = _resolve_redirect(url, location)
            where = _parse(url, "a redirect's target")
            if where.origin != target.origin:
                message = f"HTTP {response.status} to {quote(where.origin, self._conceal)}, which is not followed"
                return Outcome(passed=False, message=message)
            if response.status in BECOME_GET and method != "HEAD":
                method = "GET"
        return Outcome(passed=False, message=f"more than {MAX_REDIRECTS} redirects")

    @contextlib.asynccontextmanager
    async def _exchange(self, target: Target, method: str) -> AsyncIterator[tuple[httpcore.Response, Wire]]:
        """Send one request over a connection of its own, which ends with the context."""
        request = self._request(target, method)
        self.stage = "resolving the name"
        addresses = await self._resolver.wait_addresses(target.host, target.port)
        self.stage = "connecting"
        raw = await connect(addresses)
        try:
            wire = Wire(await self._secure(raw, target))
            connection = httpcore.AsyncHTTP11Connection(request.url.origin, wire)
            self.stage = "waiting for the response"
            yield await _wait_head(connection, request, self._conceal), wire
        finally:
            # Not aclose(): it would wait, and there is nothing left to say to the server.
            raw.socket.close()

    async def _secure(self, raw: trio.SocketStream, target: Target) -> trio.abc.Stream:
        if target.scheme == "http":
            return raw
        self.stage = "shaking hands over TLS"
        return await secure(raw, system_trust(), target.host)

    def _request(self, target: Target, method: str) -> httpcore.Request:
        headers = {
            "host": target.host_header,
            "user-agent": f"stigmerd/{__version__}",
            "accept": "*/*",
            "connection": "close",
        }
        if target.user is not None:
            headers["authorization"] = f"Basic {base64.b64encode(target.user.encode()).decode()}"
        if method not in ("GET", "HEAD"):
            headers["content-length"] = "0"
        headers |= {name.lower(): value for name, value in self._handler.headers.items()}
        return httpcore.Request(
            method.encode(),
            httpcore.URL(
                scheme=target.scheme.encode(),
                host=target.host.encode(),
                port=target.port,
                target=target.path.encode(),
            ),
            headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        )

    async def _judge(self, response: httpcore.Response, wire: Wire) -> Outcome:
        low, high = self._handler.status
        message = f"HTTP {response.status}"
        if not low <= response.status <= high:
            return Outcome(passed=False, message=message)
        self.stage = f"reading the body of HTTP {response.status}"
        wire.allow(BODY_LIMIT - PIECE)
        try:
            async for _ in response.aiter_stream():
                pass
        except TooLongError:
            pass  # enough of it: a long page is no fault
        except httpcore.RemoteProtocolError as exc:
            return Outcome(passed=False, message=f"{message}, and then broken: {quote(str(exc), self._conceal)}")
        return Outcome(passed=True, message=message)


class Wire(httpcore.AsyncNetworkStream):
    """A connection as httpcore wants it, which refuses to read more than it was allowed to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._allowed = HEAD_LIMIT
        self._silent = True

    def allow(self, count: int) -> None:
        """Let ``count`` more bytes be read."""
        self._allowed = count

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises TooLongError where the allowance is used up."""
        if self._allowed <= 0:
            raise TooLongError
        try:
            data = await self._stream.receive_some(min(max_bytes, PIECE, self._allowed))
        except trio.BrokenResourceError as exc:
            raise httpcore.ReadError("the connection broke while the response was read") from exc
        if self._silent and not data:
            raise httpcore.ReadError("the connection was closed without a response")
        self._silent = False
        self._allowed -= len(data)
        return bytes(data)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of ``buffer``."""
        try:
            await self._stream.send_all(buffer)
        except trio.BrokenResourceError as exc:
            raise httpcore.WriteError("the connection broke while the request was sent") from exc

    async def aclose(self) -> None:
        """Do nothing: the exchange that opened the connection closes it."""

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  (httpcore's signature)
        """Nothing is told."""
        return None


async def _wait_head(
    connection: httpcore.AsyncHTTP11Connection, request: httpcore.Request, conceal: Conceal
) -> httpcore.Response:
    try:
        return await connection.handle_async_request(request)
    except TooLongError as exc:
        raise AttemptFailedError(f"the head of the response is longer than {HEAD_LIMIT // 1024} KiB") from exc
    except httpcore.LocalProtocolError as exc:
        # Its text holds header values, which may be secrets.
        raise AttemptFailedError("the method or a header of the probe cannot be sent") from exc
    except httpcore.RemoteProtocolError as exc:
        raise AttemptFailedError(f"not HTTP: {quote(str(exc), conceal)}") from exc


def _parse(url: str, what: str) -> Target:
    try:
        return Target.parse(url)
    except ValueError as exc:
        raise AttemptFailedError(f"{what} is not an http or https address") from exc


def _resolve_redirect(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as exc:
        raise AttemptFailedError("a redirect's target is not an http or https address") from exc


def _location(response: httpcore.Response) -> str | None:
    """Where the response redirects to, if it does."""
    if response.status not in REDIRECTS:
        return None
    found = (value for name, value in response.headers if name.lower() == b"location")
    location = next(found, None)
    return None if location is None else location.decode("latin-1")
