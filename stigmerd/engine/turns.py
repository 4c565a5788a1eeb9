"""In which order probe attempts begin: one in each pass of the loop, and not too many at the same time.

A thousand attempts that are due in one instant would hold up the loop for as long as their beginnings
take together, and take as many threads, sockets or processes as they are. How an attempt is made, and
what it means, is not known here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

PLACES = 64
"""Attempts of one kind of handler at the same time. What hangs does so for a second, so that this many
begin in a second even where all hang; and one kind that hangs, as a Docker Engine may, holds up no other."""


class Turns:
    """Lets attempts begin one after the other, in the order in which they came."""

    def __init__(self) -> None:
        self._places: dict[str, trio.CapacityLimiter] = {}
        self._door = trio.Lock()

    @asynccontextmanager
    async def turn(self, kind: str) -> AsyncIterator[float]:
        """Hold one of the places of ``kind`` for the length of an attempt.

        Gives the instant at which the attempt was to begin: this pass of the loop. Whatever is missing
        from then to the present is the daemon's own lateness, and no queue's.
        """
        async with self._places.setdefault(kind, trio.CapacityLimiter(PLACES)):
            async with self._door:
                due = trio.current_time()
                await trio.lowlevel.checkpoint()
            yield due
