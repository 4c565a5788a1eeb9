"""TLS for probes: what to trust, the files of a ``tls`` table, the handshake.

Files are read anew for every attempt, in a thread: certificates are replaced while a life goes on,
and a file may be on a filesystem that hangs.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from stigmerd.adapters.probes.failure import AttemptFailedError, from_os_error, from_tls_error, no_more_threads
from stigmerd.core.spec import Tls

T = TypeVar("T")


@functools.cache
def system_trust() -> ssl.SSLContext:
    """Verify as the system does. Cached: reading the trust store takes tens of milliseconds."""
    return ssl.create_default_context()


async def secure(raw: trio.SocketStream, context: ssl.SSLContext, server_name: str) -> trio.abc.Stream:
    """Shake hands over ``raw``, which stays the caller's to close.

    Raises:
        AttemptFailedError: the server is not trusted, does not speak TLS, or refuses us.
    """
    stream = trio.SSLStream(raw, context, server_hostname=server_name, https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as exc:
        raise from_tls_error(exc.__cause__) from exc
    return stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Pems:
    """The contents of the files of a ``tls`` table, as grpcio wants them."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


class TlsFiles:
    """Reads the files of one ``tls`` table."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._limiter = trio.CapacityLimiter(1)

    async def read(self) -> Pems:
        """The files as they are now. Raises AttemptFailedError where one cannot be read."""
        tls = self._tls
        return await self._in_thread(
            lambda: Pems(
                ca=_content("ca_file", tls.ca_file),
                cert=_content("cert_file", tls.cert_file),
                key=_content("key_file", tls.key_file),
            )
        )

    async def context(self) -> ssl.SSLContext:
        """The same for the ssl module, for HTTP/2. Raises AttemptFailedError where a file is of no use."""
        return await self._in_thread(self._load)

    def _load(self) -> ssl.SSLContext:
        tls = self._tls
        try:
            context = ssl.create_default_context(cafile=tls.ca_file)
            if tls.cert_file is not None:
                context.load_cert_chain(tls.cert_file, tls.key_file, password="")  # "": never ask a terminal
        except ssl.SSLError as exc:
            reason = (exc.reason or "not PEM").replace("_", " ").lower()
            raise AttemptFailedError(f"a file of the tls table is of no use: {reason}") from exc
        except OSError as exc:
            raise AttemptFailedError(f"a file of the tls table: {from_os_error(exc)}") from exc
        context.set_alpn_protocols(["h2"])
        return context

    async def _in_thread(self, job: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as exc:
            raise no_more_threads() from exc


def _content(key: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise AttemptFailedError(f"tls.{key}: {from_os_error(exc)}") from exc
