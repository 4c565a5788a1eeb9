"""What the daemon does for its files again and again, in threads, and what keeps it from doing that.

A chore may hang with a file system: each has a thread of its own, and the daemon ends without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

import trio

from stigmerd.adapters.disk.output import LogFiles

ROTATION_PERIOD = 0.25
"""Seconds between two looks at the size of the logs."""

ROTATIONS_AT_ONCE = 4
"""Logs that are rotated at the same time: the rest waits, as it would for the disk."""

ROTATION_BOUND = 5.0
"""Seconds that an ordered end waits for the logs to be whole."""

CHORE_PAUSE = 1.0
"""Seconds for which a chore waits more where a thread, memory or a descriptor is lacking."""

T = TypeVar("T")

log = logging.getLogger("stigmerd")


class Chores:
    """Does chores, and tells what is lacking for them."""

    def __init__(self) -> None:
        self._lacks: dict[trio.CapacityLimiter, str] = {}
        """By the limiter of a chore: what keeps it from being done."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what is lacking now."""
        return tuple(self._lacks.values())

    async def repeat(self, chore: Callable[[], None], period: float) -> NoReturn:
        """Do a chore again and again, until cancelled."""
        limiter = trio.CapacityLimiter(1)
        while True:
            await self._do(chore, limiter)
            await trio.sleep(period)

    async def keep_logs_small(self, logs: LogFiles) -> NoReturn:
        """Rotate what is due, several logs at once: a loud component must not hold up the logs of others."""
        rotating: set[str] = set()
        limiter = trio.CapacityLimiter(ROTATIONS_AT_ONCE)

        async def rotate(component: str) -> None:
            await self._do(partial(logs.rotate, component), limiter)
            rotating.remove(component)

        looking = trio.CapacityLimiter(1)
        async with trio.open_nursery() as rotations:
            while True:
                due = await self._do(logs.find_due, looking) or []
                for component in set(due) - rotating:
                    rotating.add(component)
                    rotations.start_soon(rotate, component)
                await trio.sleep(ROTATION_PERIOD)

    async def settle_logs(self, logs: LogFiles) -> None:
        """Let a rotation end that was under way when its thread was let go: only another daemon could."""
        with trio.move_on_after(ROTATION_BOUND):
            await self._do(logs.rotate_due, trio.CapacityLimiter(1))

    async def _do(self, chore: Callable[[], T], limiter: trio.CapacityLimiter) -> T | None:
        """What the chore returns; None, after a while, where what it needs is lacking."""
        try:
            done = await trio.to_thread.run_sync(chore, abandon_on_cancel=True, limiter=limiter)
        except (RuntimeError, MemoryError, OSError) as exc:
            self._lacks[limiter] = f"the daemon lacks something for its files, and waits for it: {exc or 'memory'}"
            log.warning("%s", self._lacks[limiter])
            await trio.sleep(CHORE_PAUSE)
            return None
        self._lacks.pop(limiter, None)
        return done
