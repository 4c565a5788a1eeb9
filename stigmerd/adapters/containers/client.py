"""The docker SDK's client and its errors, in the words of this project.

The SDK is imported by the first call, in the thread that makes it: a daemon without containers
never pays for it. Everything here blocks, and is to be called from a thread that may hang.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from stigmerd.adapters.containers.address import EngineAddress
from stigmerd.engine.ports import EngineUnavailableError

if TYPE_CHECKING:
    from docker import APIClient
    from docker.tls import TLSConfig
    from requests import PreparedRequest, Response

CALL_LIMIT = 5.0
"""Seconds without an answer after which the engine is hung."""


T = TypeVar("T")

REASON_LIMIT = 500
"""Characters of the engine's reason that are shown."""


class EngineRefusedError(Exception):
    """The engine answered with an error. ``status`` is HTTP's, the message is the engine's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_missing(self) -> bool:
        """Whether what was asked for does not exist."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """Whether the present state forbids it: the name is taken, the container does not run."""
        return self.status == 409


def connect(address: EngineAddress) -> APIClient:
    """A client for the engine; asks for its version on the way."""
    return _client_class()(base_url=address.url, version="auto", timeout=int(CALL_LIMIT), tls=_tls(address))


def knock(address: EngineAddress) -> None:
    """Raise what keeps an engine on this host from being reached, in the system's own words.

    The SDK would raise it too, but forgets to close its socket then.
    """
    path = address.url.removeprefix("unix://")
    if path != address.url:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(CALL_LIMIT)
            door.connect(path)


class Reading:
    """The streaming answers that one owned thread reads; another thread may end them.

    The SDK offers no way to end each kind of them, nor to close any.
    """

    def __init__(self) -> None:
        self.closed = threading.Event()
        self._opened: list[tuple[Response, socket.socket]] = []

    def run(self, work: Callable[[], T]) -> T:
        """Do ``work`` in this thread; the streaming answers that it is given belong to this reading."""
        _thread.reading = self
        try:
            return work()
        finally:
            _thread.reading = None
            while self._opened:
                response, end = self._opened.pop()
                response.close()
                end.close()

    def items(self, stream: Iterable[T]) -> Iterator[T]:
        """The parts of an answer until it ends, breaks or is closed."""
        try:
            for item in stream:
                if self.closed.is_set():
                    return
                yield item
        except struct.error:
            return  # so the SDK lets out that the stream broke within a header

    def own(self, response: Response) -> None:
        """Take a streaming answer over."""
        try:
            end = socket.socket(fileno=os.dup(response.raw.fileno()))
        except (AttributeError, OSError, ValueError):
            return  # without a body, and so over
        self._opened.append((response, end))
        if self.closed.is_set():
            _shut(end)

    def close(self) -> None:
        """End the answers, from another thread: whoever reads them sees their end."""
        self.closed.set()
        for _, end in tuple(self._opened):
            _shut(end)


def _shut(end: socket.socket) -> None:
    # It may have ended by itself in this instant.
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


_thread = threading.local()


def _client_class() -> type[APIClient]:
    from docker import APIClient

    class Client(APIClient):
        # The engine is no web site: $http_proxy and ~/.netrc are not meant for it.
        trust_env = False

        def send(self, request: PreparedRequest, **options: Any) -> Response:  # noqa: ANN401
            """Send a request, on a connection of its own. A streaming answer goes to the thread's reading."""
            # A connection that was kept would be dead after a restart of the engine, and is nobody's to close.
            if request.headers.get("Connection") == "keep-alive":
                request.headers["Connection"] = "close"
            response = super().send(request, **options)
            reading: Reading | None = getattr(_thread, "reading", None)
            if options.get("stream") and reading is not None:
                reading.own(response)
            return response

    return Client


def _tls(address: EngineAddress) -> TLSConfig | bool:
    if address.certificates is None:
        return False
    from docker.tls import TLSConfig

    cert, key, ca = (address.certificates / name for name in ("cert.pem", "key.pem", "ca.pem"))
    return TLSConfig(
        client_cert=(str(cert), str(key)) if cert.exists() and key.exists() else None,
        ca_cert=str(ca) if ca.exists() else None,
        verify=address.verify,
    )


@contextmanager
def translated(url: Callable[[], str]) -> Iterator[None]:
    """Turn what the SDK raises into this module's and the port's exceptions."""
    from docker.errors import APIError, DockerException, InvalidArgument, NullResource
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except APIError as exc:
        # What crashes under the engine can bring pages of registers with it.
        reason = (exc.explanation or str(exc)).partition("\n")[0][:REASON_LIMIT]
        raise EngineRefusedError(exc.status_code or 500, reason) from exc
    except (InvalidArgument, NullResource) as exc:
        raise EngineRefusedError(400, str(exc)) from exc
    except (DockerException, RequestException, HTTPError, OSError) as exc:
        raise EngineUnavailableError(_describe(exc, url())) from exc


def hung(url: str) -> str:
    """The sentence about an engine that says nothing."""
    return (
        f"the Docker Engine at {url} does not answer within {CALL_LIMIT:g} s:"
        " restart it (systemctl restart docker), or set DOCKER_HOST"
    )


def _describe(exc: Exception, url: str) -> str:
    chain = tuple(_chain(exc))
    numbers = {link.errno for link in chain if isinstance(link, OSError)}
    if numbers & {errno.EACCES, errno.EPERM}:
        return (
            f"the Docker Engine at {url} may not be used by this user:"
            " add the user to the group docker, or set DOCKER_HOST"
        )
    if numbers & {errno.ENOENT, errno.ECONNREFUSED}:
        return f"no Docker Engine answers at {url}: start it (systemctl start docker), or set DOCKER_HOST"
    if any(isinstance(link, TimeoutError) for link in chain):
        return hung(url)
    return f"the Docker Engine at {url} cannot be asked ({exc}): look at its log, or set DOCKER_HOST"


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The exception and what is behind it. urllib3 and requests keep causes among their arguments."""
    pending, seen = [exc], set[int]()
    while pending:
        link = pending.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        behind = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        pending.extend(cause for cause in behind if isinstance(cause, BaseException))
