"""The control socket: made, kept in its place, and how much of the daemon its peers can use together.

What one peer says, and what is answered, is the business of ``connection`` and ``handlers``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import NoReturn

import trio
from trio_util import AsyncValue

from stigmerd.control.connection import Connection, OnProblem
from stigmerd.control.endpoint import (
    SOCKET_NAME,
    identify_socket,
    open_folder,
    own_uids,
    peer_uid,
    socket_address,
)
from stigmerd.control.handlers import Context, Hello
from stigmerd.control.limits import LIMITS, Limits
from stigmerd.engine.operations import Operations

BACKLOG = 1024
"""Connections that may wait for an accept: beyond it Linux turns a client with a timeout away at once."""

ACCEPT_PAUSE = 0.1
"""Seconds before the next accept, after one that failed."""

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class ControlSocketError(Exception):
    """The control socket cannot be made. The message names the path and says what to do."""


class ControlServer:
    """Listens on ``run_dir/stigmerd.sock`` and answers its own user and root.

    To be used as a context, within which one task runs :meth:`serve`. The caller holds the lock of
    the home: a socket that lies there already is nobody's, and is replaced. ``listener`` is one
    that an earlier program of this process listened on: it is taken over with whoever waits at it.

    Leaving the context removes the socket, so a program that replaces itself does so inside.

    Raises:
        ControlSocketError: the socket cannot be made.
    """

    def __init__(
        self,
        run_dir: str,
        hello: Hello,
        *,
        on_problem: OnProblem,
        listener: socket.socket | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self._run_dir = run_dir
        self._hello = hello
        self._on_problem = on_problem
        self._limits = limits
        self._pending = AsyncValue(0)
        self._connections: set[Connection] = set()
        self._spare: int | None = None
        self._listener = listener if listener is not None else bind_control_socket(run_dir)
        self._place = identify_socket(run_dir)

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            if self._place is not None and identify_socket(self._run_dir) == self._place:
                os.unlink(os.path.join(self._run_dir, SOCKET_NAME))
        self._listener.close()
        self._drop_spare()

    @property
    def listener(self) -> socket.socket:
        """The socket that is listened on now: what the next program of this process inherits."""
        return self._listener

    async def serve(self, operations: Operations) -> NoReturn:
        """Answer whoever connects, until cancelled. Makes the socket again when somebody removed it.

        Who connected before waits in the socket's queue.
        """
        context = Context(operations=operations, hello=self._hello)
        async with trio.open_nursery() as connections:
            admit = partial(self._admit, context=context, connections=connections)
            while True:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._accept, self._listener, admit)
                    renewed = await self._wait_renewed()
                    accepting.cancel_scope.cancel()
                self._listener.close()
                self._listener = renewed
                self._place = identify_socket(self._run_dir)

    async def wait_answered(self) -> None:
        """Wait until every request has its answer. The caller bounds it.

        To be awaited before the process ends or replaces itself: the request for that is one of them.
        """
        await self._pending.wait_value(0)

    async def _wait_renewed(self) -> socket.socket:
        """Wait until the socket has gone from its place, and make another one."""
        is_reported = False
        while True:
            await trio.sleep(self._limits.watch)
            if self._place is not None and identify_socket(self._run_dir) == self._place:
                continue
            try:
                renewed = bind_control_socket(self._run_dir)
            except ControlSocketError as exc:
                if not is_reported:
                    self._on_problem(str(exc))
                is_reported = True
                continue
            self._on_problem(f"{self._run_dir}/{SOCKET_NAME} was removed by somebody, and is made again")
            return renewed

    async def _accept(self, listener: socket.socket, admit: Callable[[trio.socket.SocketType], None]) -> None:
        incoming = trio.socket.from_stdlib_socket(listener)
        is_reported = False
        self._keep_spare()
        while True:
            # accept(2) looks for a descriptor first: without one it fails though nobody is waiting,
            # and an operator would be displaced for no one.
            await trio.lowlevel.wait_readable(listener)
            try:
                peer, _ = await incoming.accept()
            except OSError as exc:
                if not is_reported:
                    self._on_problem(f"the control socket cannot accept a connection: {exc.strerror}")
                is_reported = True
                await self._make_possible(exc)
                continue
            # Not before the next accept: what was given up for it would be taken back at once.
            self._keep_spare()
            is_reported = False
            if _is_trusted(peer):
                admit(peer)
            else:
                peer.close()

    def _admit(self, peer: trio.socket.SocketType, *, context: Context, connections: trio.Nursery) -> None:
        self._make_room(peer.fileno())
        connection = Connection(
            peer,
            context,
            self._limits,
            pending=self._pending,
            may_subscribe=self._may_subscribe,
            on_problem=self._on_problem,
        )
        self._connections.add(connection)
        connections.start_soon(self._serve_one, connection)

    def _make_room(self, newest: int) -> None:
        """Close idle connections where there are too many, or where too few descriptors are left for anything else.

        A new descriptor has the lowest number that is free, so each one closed makes room below it.
        """
        if len(self._connections) >= self._limits.connections:
            self._displace()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        missing = newest + self._limits.reserve - limit if limit != resource.RLIM_INFINITY else 0
        while missing > 0 and self._displace(only_idle=True):
            missing -= 1

    async def _serve_one(self, connection: Connection) -> None:
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    def _displace(self, *, only_idle: bool = False) -> bool:
        """Close the connection that has gone longest without a request, if there is any.

        One that waits for an answer is the last choice, one that is subscribed the last but one:
        they are of use to somebody, and at most half of all are subscribed.
        """
        chosen = [c for c in self._connections if not (only_idle and (c.is_busy or c.is_subscriber))]
        if chosen:
            idlest = min(chosen, key=lambda c: (c.is_busy, c.is_subscriber, c.heard_at))
            self._connections.remove(idlest)
            idlest.close()
        return bool(chosen)

    def _may_subscribe(self) -> bool:
        return sum(connection.is_subscriber for connection in self._connections) < self._limits.subscribers

    async def _make_possible(self, problem: OSError) -> None:
        """After a failed accept: find a descriptor where they have run out, or wait a little."""
        if problem.errno in _NO_DESCRIPTORS and self._spare is not None:
            self._drop_spare()
            await trio.lowlevel.checkpoint()
            return
        if problem.errno in _NO_DESCRIPTORS:
            self._displace()
        await trio.sleep(ACCEPT_PAUSE)

    def _keep_spare(self) -> None:
        """Hold one descriptor back, so that an operator is served where all others are taken."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _drop_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def bind_control_socket(run_dir: str) -> socket.socket:
    """Bind ``stigmerd.sock`` in ``run_dir``, whatever the length of the path, and listen.

    The folder is made if it is missing, has to be the daemon's own, and is 0700 before the bind, so
    that nobody else reaches the socket at any instant.

    Raises:
        ControlSocketError: the folder is another user's, the name is taken by something that is no
            socket, or the system refuses.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(run_dir, 0o700)
        folder = open_folder(run_dir)
        try:
            _clear_folder(folder, run_dir)
            return _bind_in(folder, run_dir)
        finally:
            os.close(folder)
    except OSError as exc:
        raise ControlSocketError(f"{run_dir}/{SOCKET_NAME} cannot be made: {exc.strerror}") from exc


def _clear_folder(folder: int, run_dir: str) -> None:
    if os.fstat(folder).st_uid != os.geteuid():
        raise ControlSocketError(f"{run_dir} belongs to another user: remove it, or use another home")
    os.fchmod(folder, 0o700)
    try:
        found = os.stat(SOCKET_NAME, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ControlSocketError(f"{run_dir}/{SOCKET_NAME} is not a socket: remove it")
    os.unlink(SOCKET_NAME, dir_fd=folder)


def _bind_in(folder: int, run_dir: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(folder, run_dir) as address:
            listener.bind(address)
        # Nobody can connect before it listens.
        os.chmod(SOCKET_NAME, 0o600, dir_fd=folder)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_trusted(peer: trio.socket.SocketType) -> bool:
    try:
        return peer_uid(peer) in own_uids()
    except OSError:
        return False
