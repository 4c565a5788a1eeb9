"""Opens one connection, to the first address that answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from stigmerd.adapters.probes.failure import AttemptFailedError, from_os_error
from stigmerd.adapters.probes.resolve import Address

FALLBACK_DELAY = 0.25
"""Seconds for an address before the next one has its turn. Source: RFC 8305, section 5."""


async def connect(addresses: Sequence[Address]) -> trio.SocketStream:
    """A stream to the first of ``addresses`` that takes a connection. The caller closes it.

    Raises:
        AttemptFailedError: none does. A port that nobody listens on can be reached by a
            connection to itself, where the port is one that the system hands out to clients;
            that is a failure too.
    """
    reasons: dict[str, bool] = {}
    for place, address in enumerate(addresses, start=1):
        turn = FALLBACK_DELAY if place < len(addresses) else math.inf
        with trio.move_on_after(turn):
            try:
                return await _connect_to(address)
            except AttemptFailedError as exc:
                reasons[str(exc)] = exc.conclusive
    raise AttemptFailedError(", ".join(reasons), conclusive=any(reasons.values()))


async def _connect_to(address: Address) -> trio.SocketStream:
    try:
        connection = trio.socket.socket(address.family, trio.socket.SOCK_STREAM)
        try:
            await connection.connect(address.sockaddr)
            if connection.getsockname() == connection.getpeername():
                raise AttemptFailedError("nothing listens: the connection reached itself")
            return trio.SocketStream(connection)
        except BaseException:
            connection.close()  # cancelled or failed: nobody else knows this socket yet
            raise
    except OSError as exc:
        raise from_os_error(exc) from exc
