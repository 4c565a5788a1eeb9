"""The operator's end of the control channel: blocking, standard library only, quick to import."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

from stigmerd import __version__
from stigmerd.control.endpoint import SOCKET_NAME, open_folder, own_uids, peer_uid, socket_address
from stigmerd.control.protocol import PROTOCOL, LineFramer, LineTooLongError, encode_request

HELLO_LIMIT = 5.0
"""Seconds for connecting and ``hello`` together."""

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of one line from the daemon: a bound against nonsense, far above any status document."""

NO_STIGMERD = "what answers at the control socket is no stigmerd"

RETRY_PAUSE = 0.05

CHUNK = 64 * 1024


class ControlError(Exception):
    """The daemon could not be asked. The message is a sentence for the operator."""


class DaemonAbsentError(ControlError):
    """No daemon runs on this home."""


class DaemonSilentError(ControlError):
    """A daemon runs, but did not answer ``hello`` in time."""


class ProtocolMismatchError(ControlError):
    """The daemon speaks another protocol than this program."""


class UntrustedDaemonError(ControlError):
    """What is at the control socket's place is not this user's: nothing was said to it."""


class ConnectionLostError(ControlError):
    """The daemon closed the connection before it answered."""


class DeadlinePassedError(ControlError):
    """The caller's own deadline passed before the daemon answered."""


class RemoteError(ControlError):
    """The daemon refused or failed. ``code`` is a number of docs/control-channel.md, ``name`` its ``data.code``."""

    def __init__(self, code: int, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    @property
    def name(self) -> str:
        """The stable word for the error: ``unknown_component``, ``busy`` …"""
        return str(self.data.get("code", ""))


class Notification(NamedTuple):
    """What a subscriber is told: ``event``, ``missed`` or ``status``, and its content."""

    method: str
    params: dict[str, Any]


class Client:
    """One connection to a daemon that has said hello. Made by :func:`connect`, used as a context."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        """Greet the daemon at the other end of ``connection``, which stays the caller's if this raises."""
        self._connection = connection
        self._framer = LineFramer(MAX_ANSWER)
        self._notifications: deque[Notification] = deque()
        self._last_id = 0
        hello = self.call("hello", deadline=deadline)
        self.server_protocol = hello.get("protocol")
        self.server_version = str(hello.get("version"))
        self.server_pid = hello.get("pid")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. What the daemon was asked to do goes on."""
        self._connection.close()

    def call(self, method: str, *, deadline: float | None = None, **params: Any) -> dict[str, Any]:  # noqa: ANN401  (JSON is what it is)
        """Have one request carried out, however long that takes, and return its result.

        Parameters that are None are left out. ``deadline`` is an instant of ``time.monotonic()``.

        Raises:
            RemoteError: the daemon refused or failed.
            ConnectionLostError: it went away before it answered.
            DeadlinePassedError: it was not answered in time; the work may go on.
        """
        self._last_id += 1
        given = {key: value for key, value in params.items() if value is not None}
        self._send(encode_request(self._last_id, method, given), deadline)
        while True:
            message = self._receive(deadline)
            if "method" in message:
                self._notifications.append(_to_notification(message))
            # The answer of an earlier call, whose deadline passed, is nobody's; one without an id is ours.
            elif message.get("id") in {self._last_id, None}:
                return _to_result(message)

    def subscribe(self, method: str, **params: Any) -> Iterator[Notification]:  # noqa: ANN401  (as above)
        """Subscribe, and return the notifications, which end when the daemon closes the connection."""
        self.call(method, **params)
        return self._notifications_until_closed()

    def next_notification(self, deadline: float | None = None) -> Notification:
        """The next notification of what was subscribed to.

        Raises:
            ConnectionLostError: there will be none.
            DeadlinePassedError: none came in time.
        """
        while not self._notifications:
            message = self._receive(deadline)
            if "method" in message:
                self._notifications.append(_to_notification(message))
        return self._notifications.popleft()

    def _notifications_until_closed(self) -> Iterator[Notification]:
        while True:
            try:
                notification = self.next_notification()
            except ConnectionLostError:
                return
            yield notification

    def _send(self, line: bytes, deadline: float | None) -> None:
        try:
            self._connection.settimeout(_time_left(deadline))
            self._connection.sendall(line)
        except TimeoutError:
            raise DeadlinePassedError("the daemon did not take the request in time") from None
        except OSError as exc:
            raise ConnectionLostError("the daemon closed the connection") from exc

    def _receive(self, deadline: float | None) -> dict[str, Any]:
        while True:
            try:
                line = self._framer.next_line()
                if line is not None:
                    return _decode(line)
                self._connection.settimeout(_time_left(deadline))
                data = self._connection.recv(CHUNK)
            except TimeoutError:
                raise DeadlinePassedError("the daemon did not answer in time") from None
            except LineTooLongError as exc:
                raise ControlError(f"the daemon's answer is not to be used: {exc}") from exc
            except OSError as exc:
                raise ConnectionLostError("the daemon closed the connection before it answered") from exc
            if not data:
                raise ConnectionLostError("the daemon closed the connection before it answered")
            self._framer.feed(data)


def connect(home: str, *, timeout: float = HELLO_LIMIT, any_protocol: bool = False) -> Client:
    """Connect to the daemon of ``home``, prove whose it is, and have it say hello within ``timeout`` seconds.

    With ``any_protocol`` a daemon of another protocol is no error: ``status`` and ``shutdown`` have
    the same form in every one.

    Raises:
        DaemonAbsentError: nobody is there.
        DaemonSilentError: somebody is, and says nothing.
        ProtocolMismatchError: the daemon is of another protocol.
        UntrustedDaemonError: what is there is another user's.
        ControlError: the folder of the socket cannot be used.
    """
    deadline = time.monotonic() + timeout
    client = None
    while client is None:
        client = _try_to_greet(os.path.join(home, "run"), deadline, timeout)
    if client.server_protocol != PROTOCOL and not any_protocol:
        client.close()
        raise ProtocolMismatchError(
            f"the daemon is stigmerd {client.server_version} (protocol {client.server_protocol}), "
            f"this program {__version__} (protocol {PROTOCOL}): use the stigmer of the daemon's version, or "
            "stop the daemon and start it with this one"
        )
    return client


def _try_to_greet(run_dir: str, deadline: float, timeout: float) -> Client | None:
    """A client; or None where the connection was closed at once and it is not too late to try again."""
    silent = DaemonSilentError(f"the daemon did not answer within {timeout:g} s")
    try:
        connection = _open_connection(run_dir, deadline)
        try:
            return Client(connection, deadline)
        except BaseException:
            connection.close()
            raise
    except DeadlinePassedError:
        raise silent from None
    except ConnectionLostError:
        # The daemon ends just now, or others crowd its socket: the next attempt tells which.
        if time.monotonic() + RETRY_PAUSE >= deadline:
            raise silent from None
        time.sleep(RETRY_PAUSE)
        return None


def _open_connection(run_dir: str, deadline: float) -> socket.socket:
    try:
        folder = open_folder(run_dir)
    except FileNotFoundError:
        raise DaemonAbsentError(f"the daemon is not running: there is no {run_dir}") from None
    except OSError as exc:
        raise ControlError(f"{run_dir}: {exc.strerror}") from exc
    try:
        trusted = _trusted_uids(folder, run_dir)
        _check_socket(folder, run_dir, trusted)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect_in(connection, folder, run_dir, deadline)
            if peer_uid(connection) not in trusted:
                raise UntrustedDaemonError(f"who listens on {run_dir}/{SOCKET_NAME} is another user")
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(folder)


def _trusted_uids(folder: int, run_dir: str) -> frozenset[int]:
    """Whose daemon may answer: our own or root's; and where we are root, that of the folder's owner."""
    found = os.fstat(folder)
    trusted = own_uids() | ({found.st_uid} if os.geteuid() == 0 else frozenset())
    if found.st_uid not in trusted:
        raise UntrustedDaemonError(f"{run_dir} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedDaemonError(f"{run_dir} can be written by others: chmod 700 it")
    return trusted


def _check_socket(folder: int, run_dir: str, trusted: frozenset[int]) -> None:
    try:
        found = os.stat(SOCKET_NAME, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        raise DaemonAbsentError("the daemon is not running") from None
    except OSError as exc:
        raise ControlError(f"{run_dir}/{SOCKET_NAME}: {exc.strerror}") from exc
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in trusted:
        raise UntrustedDaemonError(f"{run_dir}/{SOCKET_NAME} is not a socket of this user")


def _connect_in(connection: socket.socket, folder: int, run_dir: str, deadline: float) -> None:
    try:
        with socket_address(folder, run_dir) as address:
            while True:
                connection.settimeout(_time_left(deadline))
                try:
                    connection.connect(address)
                    return
                except BlockingIOError:
                    # Linux says so, instead of waiting, while as many as may wait do wait already.
                    time.sleep(RETRY_PAUSE)
    except (FileNotFoundError, ConnectionRefusedError):
        raise DaemonAbsentError("the daemon is not running") from None
    except TimeoutError:
        raise DeadlinePassedError("nobody accepted the connection in time") from None
    except OSError as exc:
        raise ControlError(f"{run_dir}/{SOCKET_NAME}: {exc.strerror}") from exc


def _time_left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _decode(line: bytes) -> dict[str, Any]:
    try:
        return _to_object(json.loads(line.decode("utf-8")))
    except (ValueError, RecursionError) as exc:
        raise ControlError(NO_STIGMERD) from exc


def _to_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ControlError(NO_STIGMERD)
    return value


def _to_notification(message: dict[str, Any]) -> Notification:
    return Notification(str(message["method"]), _to_object(message.get("params", {})))


def _to_result(message: dict[str, Any]) -> dict[str, Any]:
    if "error" not in message:
        return _to_object(message.get("result"))
    error = _to_object(message["error"])
    code = error.get("code")
    if not isinstance(code, int):
        raise ControlError(NO_STIGMERD)
    raise RemoteError(code, str(error.get("message", "")), _to_object(error.get("data", {})))
