"""The docker SDK's client and its errors, in the words of this project.

The SDK is imported by the first call, in the thread that makes it: a daemon without containers
never pays for it. Everything here blocks, and is to be called from a thread that may hang.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stigmerd.adapters.docker_address import EngineAddress
from stigmerd.engine.ports import EngineUnavailableError

if TYPE_CHECKING:
    from docker import APIClient
    from docker.tls import TLSConfig
    from requests import PreparedRequest, Response

CALL_LIMIT = 5.0
"""Seconds without an answer after which the engine is hung."""


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


def close_streams() -> None:
    """Close the streaming answers that this thread was given, read to their end or not."""
    opened: list[Response] = getattr(_opened, "responses", [])
    while opened:
        opened.pop().close()


_opened = threading.local()


def _client_class() -> type[APIClient]:
    from docker import APIClient

    class Client(APIClient):
        # The engine is no web site: $http_proxy and ~/.netrc are not meant for it.
        trust_env = False

        def send(self, request: PreparedRequest, **options: Any) -> Response:  # noqa: ANN401
            """Send a request, and remember a streaming answer: the SDK gives out no way to close it."""
            response = super().send(request, **options)
            if options.get("stream"):
                _opened.__dict__.setdefault("responses", []).append(response)
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
