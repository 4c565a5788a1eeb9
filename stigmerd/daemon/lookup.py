"""Looks at files for operators: in threads, as they may be large, and bounded, as they may hang with their disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from stigmerd.engine.operations import Refusal, RefusedError

AT_ONCE = 4
"""Looks of one kind at the same time. One that hangs keeps its place, and its thread, until it does not."""

T = TypeVar("T")


class Lookup:
    """One kind of look, at ``what``: a phrase for an operator. ``bound`` is in seconds, and includes the wait
    for those who came first."""

    def __init__(self, what: str, *, bound: float) -> None:
        self._what = what
        self._bound = bound
        self._places = trio.CapacityLimiter(AT_ONCE)

    async def do(self, look: Callable[[], T]) -> T:
        """What the look finds. A caller who is cancelled leaves it to itself.

        Raises:
            RefusedError: that took too long.
        """
        with trio.move_on_after(self._bound):
            return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=self._places)
        raise RefusedError(Refusal.FAILED, f"{self._what} does not answer within {self._bound:g} s: is its disk hung?")
