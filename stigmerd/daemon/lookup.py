"""Looks at files: in threads, as they may be large, and for operators bounded, as they may hang with their disk."""

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


class LookAside:
    """The engine's ``Look``: one after the other in a thread, or in the loop where none can be had."""

    def __init__(self) -> None:
        self._place = trio.CapacityLimiter(1)

    async def __call__(self, look: Callable[[], T]) -> T:
        """What the look finds. A caller who is cancelled leaves it to itself."""
        is_begun = False

        def begin() -> T:
            nonlocal is_begun
            is_begun = True
            return look()

        try:
            return await trio.to_thread.run_sync(begin, abandon_on_cancel=True, limiter=self._place)
        except RuntimeError:
            if is_begun:
                raise
        return look()
