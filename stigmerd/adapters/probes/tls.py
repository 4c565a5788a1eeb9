"""TLS for probes: what to trust, the files of a ``tls`` table, the handshake.

Files are read anew for every attempt, in a thread: certificates are replaced while a life goes on,
and a file may be on a filesystem that hangs. The thread of an attempt that is over reads on, so no file
may be without an end.
"""

from __future__ import annotations

import functools
import os
import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from stigmerd.adapters.probes.failure import AttemptFailedError, from_os_error, from_tls_error, no_more_threads
from stigmerd.core.spec import LARGEST_PEM, Tls

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
        with ExitStack() as files:
            ca = _again(files, "ca_file", tls.ca_file)
            cert = _again(files, "cert_file", tls.cert_file)
            key = _again(files, "key_file", tls.key_file)
            try:
                context = ssl.create_default_context(cafile=ca)
                if cert is not None:
                    context.load_cert_chain(cert, key, password="")  # "": never ask a terminal
            except ssl.SSLError as exc:
                reason = (exc.reason or "not PEM").replace("_", " ").lower()
                raise AttemptFailedError(f"a file of the tls table is of no use: {reason}") from exc
            except OSError as exc:
                raise from_os_error(exc, "a file of the tls table") from exc
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
    with _opened(key, path) as descriptor:
        try:
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(LARGEST_PEM)
        except OSError as exc:
            raise from_os_error(exc, f"tls.{key}") from exc


def _again(files: ExitStack, key: str, path: str | None) -> str | None:
    """A path for the ssl module, which takes no descriptors, to the very file that was looked at."""
    return None if path is None else f"/dev/fd/{files.enter_context(_opened(key, path))}"


@contextmanager
def _opened(key: str, path: str) -> Iterator[int]:
    """A descriptor of a regular file that is not too large. Its path stays unnamed: it may hold a secret."""
    try:
        # Not blocking: a FIFO in the place of the file would hold up the open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise from_os_error(exc, f"tls.{key}") from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AttemptFailedError(f"tls.{key}: it is no regular file")
        if status.st_size > LARGEST_PEM:
            raise AttemptFailedError(f"tls.{key}: it is larger than 1 MiB")
        yield descriptor
    finally:
        os.close(descriptor)
