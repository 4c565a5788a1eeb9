"""In which order things begin that come in great number: one in each pass of the loop, and of probe attempts
not too many at the same time.

A thousand attempts or stops that are due in one instant would hold up the loop for as long as their
beginnings take together, and the attempts take as many threads, sockets or processes as they are. What it
is that begins is not known here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

PLACES = 64
"""Attempts of one kind of handler at the same time. What hangs does so for a second, so that this many
begin in a second even where all hang; and one kind that hangs, as a Docker Engine may, holds up no other."""


class Door:
    """Lets tasks through in the order in which they came, one in each pass of the loop."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def pass_through(self) -> float:
        """Wait for one's turn. Returns the instant at which it came, in the pass before the one that goes on."""
        async with self._lock:
            came = trio.current_time()
            await trio.lowlevel.checkpoint()
        return came


class Turns:
    """Lets attempts begin one after the other, in the order in which they came."""

    def __init__(self) -> None:
        self._places: dict[str, trio.CapacityLimiter] = {}
        self._door = Door()

    @asynccontextmanager
    async def turn(self, kind: str) -> AsyncIterator[float]:
        """Hold one of the places of ``kind`` for the length of an attempt.

        Gives the instant at which the attempt was to begin: this pass of the loop. Whatever is missing
        from then to the present is the daemon's own lateness, and no queue's.
        """
        async with self._places.setdefault(kind, trio.CapacityLimiter(PLACES)):
            yield await self._door.pass_through()
