"""The Docker Engine while no daemon runs: is a container that a dead one left still there, and its end.

A few requests over the standard library: the docker SDK costs half a second, and this is for one or
two containers that the state names. One is ours only if its labels name this home and this life.
"""

from __future__ import annotations

import json
import os
import socket
import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import quote, urlsplit

from stigmerd.adapters.containers.address import find_engine
from stigmerd.adapters.containers.labels import HOME_LABEL, NONCE_LABEL
from stigmerd.adapters.disk.home import Home
from stigmerd.core.record import Identity
from stigmerd.core.spec import StopPolicy
from stigmerd.engine.ports import EngineUnavailableError

ANSWER_TIMEOUT = 2.0
"""Seconds for an answer."""

END_LIMIT = 5.0
"""Seconds that a container may take to be over after SIGKILL."""

GLANCE = 0.1
"""Seconds between two looks at a container that is about to end."""


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def is_running(home: Home, identity: Identity) -> bool | None:
    """Whether the container of this life runs. None where the engine cannot be asked."""
    try:
        return _is_ours_and_runs(home, identity)
    except EngineUnavailableError:
        return None


def stop(home: Home, identity: Identity, policy: StopPolicy) -> bool:
    """Stop the container of this life if it runs, and tell whether there was one to stop.

    It gets its component's stop signal, which the engine's own stop knows nothing of, and SIGKILL after the grace.
    It is not removed: its last output is still in it, for the next daemon to put into the log.

    Raises:
        EngineUnavailableError: it could not be stopped, or not be told.
    """
    if not _is_ours_and_runs(home, identity):
        return False
    code = 0
    for signal, limit in ((policy.signal, policy.grace), ("SIGKILL", END_LIMIT)):
        if limit > 0:
            code = _send(identity, signal)
            if _wait_ended(home, identity, limit):
                return True
    advice = f"docker kill {identity.container_id}"
    raise EngineUnavailableError(f"the Docker Engine did not stop it (HTTP {code}): {advice}")


def engine_version() -> str:
    """What the engine says that it is.

    Raises:
        EngineUnavailableError: it does not answer.
    """
    code, body = _ask("GET", "/version", timeout=ANSWER_TIMEOUT)
    try:
        return str(json.loads(body)["Version"])
    except (ValueError, KeyError, TypeError) as exc:
        raise EngineUnavailableError(f"what answers there is no Docker Engine (HTTP {code})") from exc


def _send(identity: Identity, signal: str) -> int:
    """Send a signal, and tell the engine's word for how that went: what it refuses is seen by looking."""
    container = f"/containers/{identity.container_id}"
    # The engine answers a SIGKILL once the container is over.
    code, _ = _ask("POST", f"{container}/kill?signal={quote(signal)}", timeout=END_LIMIT + ANSWER_TIMEOUT)
    # A frozen process gets its signals when it thaws; one that is not frozen is no error here.
    _ask("POST", f"{container}/unpause", timeout=ANSWER_TIMEOUT)
    return code


def _wait_ended(home: Home, identity: Identity, limit: float) -> bool:
    deadline = time.monotonic() + limit
    while _is_ours_and_runs(home, identity):
        if time.monotonic() >= deadline:
            return False
        time.sleep(GLANCE)
    return True


def _is_ours_and_runs(home: Home, identity: Identity) -> bool:
    code, body = _ask("GET", f"/containers/{identity.container_id}/json", timeout=ANSWER_TIMEOUT)
    if code == 404:
        return False
    try:
        found = json.loads(body)
        labels, running = found["Config"]["Labels"] or {}, found["State"]["Running"]
    except (ValueError, KeyError, TypeError) as exc:
        raise EngineUnavailableError(f"the Docker Engine's answer makes no sense (HTTP {code})") from exc
    ours = labels.get(HOME_LABEL) == home.path and labels.get(NONCE_LABEL) == identity.nonce
    return ours and running is True


def _ask(method: str, path: str, *, timeout: float) -> tuple[int, bytes]:
    """One request. Returns the status and the body of the answer.

    Raises:
        EngineUnavailableError: there was no answer.
    """
    connection = _connection(timeout)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException) as exc:
        raise EngineUnavailableError(f"the Docker Engine cannot be asked: {exc}") from exc
    finally:
        connection.close()


def _connection(timeout: float) -> HTTPConnection:
    address = find_engine(os.environ)
    url = urlsplit(address.url)
    if url.scheme == "unix":
        return _UnixConnection(url.path, timeout)
    if url.scheme in {"tcp", "http"} and url.hostname and address.certificates is None:
        return HTTPConnection(url.hostname, url.port or 2375, timeout=timeout)
    raise EngineUnavailableError(f"the Docker Engine at {address.url} is asked by the daemon only: start it")
