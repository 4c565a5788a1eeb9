"""One peer's socket as lines in and lines out, bounded in time and memory both ways."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType

import trio

from stigmerd.control.limits import LIMITS, Limits
from stigmerd.control.protocol import ErrorCode, LineFramer, LineTooLongError, ProtocolError

SEND_ROOM = 64 * 1024
FAREWELL_ROOM = 128 * 1024
"""Bytes of the kernel's send buffer for a subscriber, and what it becomes once the subscriber is given
up: so there is room to tell it what it missed although it took nothing."""

CHUNK = 16 * 1024

_GONE = (OSError, trio.ClosedResourceError)


class Wire:
    """The lines of one connection. Whoever goes away or stops reading is an outcome, not an exception."""

    def __init__(self, peer: trio.socket.SocketType, limits: Limits = LIMITS) -> None:
        self._peer = peer
        self._limits = limits
        self._framer = LineFramer()
        # Answers and notifications come from tasks of their own, and a line has to be whole
        # before the next one begins.
        self._turn = trio.Lock()
        self._unsent = b""
        self.is_broken = False
        """Whether the peer has gone, or takes nothing any more: nothing more is sent."""

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket now. Whoever waits in it is told that the peer has gone."""
        self.is_broken = True
        self._peer.close()

    async def next_line(self) -> bytes | None:
        """The next line, or None once the peer has gone.

        Raises:
            ProtocolError: where the next line begins cannot be told; there will be none.
        """
        while True:
            try:
                line = self._framer.next_line()
            except LineTooLongError as exc:
                raise ProtocolError(ErrorCode.INVALID_REQUEST, str(exc)) from exc
            if line is not None:
                return line
            try:
                data = await self._peer.recv(CHUNK)
            except _GONE:
                return None
            if not data and self._framer.has_partial_line:
                raise ProtocolError(ErrorCode.PARSE_ERROR, "the last line has no end")
            if not data:
                return None
            self._framer.feed(data)

    async def send(self, line: bytes) -> bool:
        """Send one line. False if the peer did not take it: it is broken then."""
        async with self._turn:
            self._unsent += line
            if not self.is_broken:
                self.is_broken = not await self._flush(self._limits.stall)
            return not self.is_broken

    def keep_room(self) -> None:
        """Keep some of the kernel's buffer for a farewell."""
        self._resize_room(SEND_ROOM)

    async def say_farewell(self, line: bytes) -> None:
        """Send what is unsent and one last line to a peer that does not read, as far as there is room; close."""
        async with self._turn:
            self._resize_room(FAREWELL_ROOM)
            self._unsent += line
            await self._flush(self._limits.farewell)
            self.close()

    async def linger(self) -> None:
        """Say that nothing more is sent, and throw away what still comes.

        Closing a socket that holds unread bytes resets it, and the peer could lose the last answer.
        """
        with trio.move_on_after(self._limits.farewell), contextlib.suppress(*_GONE):
            self._peer.shutdown(socket.SHUT_WR)
            while await self._peer.recv(CHUNK):
                pass

    async def _flush(self, limit: float) -> bool:
        """Send all that is unsent; False once the peer has gone or has taken nothing for ``limit`` seconds."""
        while self._unsent:
            with trio.move_on_after(limit) as waiting:
                try:
                    sent = await self._peer.send(self._unsent)
                except _GONE:
                    return False
                self._unsent = self._unsent[sent:]
            if waiting.cancelled_caught:
                return False
        return True

    def _resize_room(self, size: int) -> None:
        with contextlib.suppress(OSError):
            self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
