"""Spawns in threads of their own, so that one which hangs holds up nobody but its own component.

No cancel scope reaches a thread. Who gives up waiting leaves it behind, and what it brings into
being later is undone at once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import trio

from stigmerd.engine.ports import SpawnFailedError

AT_ONCE = 8
"""Spawns under way at once: more would only wait for the processors."""

SLOW = 0.25
"""Seconds after which a spawn waits for something else than a processor, and gives its place away."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Result(Protocol[T_co]):
    """What a thread left: unwrap returns it, or raises it."""

    def unwrap(self) -> T_co: ...


class _Attempt(Generic[T]):
    """One piece of work, in a thread that can be left behind."""

    def __init__(self, work: Callable[[], T], undo: Callable[[T], None], limiter: trio.CapacityLimiter) -> None:
        self.settled = trio.Event()
        self._work = work
        self._undo = undo
        self._limiter = limiter
        self._result: _Result[T] | None = None
        self._is_begun = False
        self._is_wanted = True
        self._token = trio.lowlevel.current_trio_token()

    def begin(self) -> None:
        """Start the thread."""
        try:
            trio.lowlevel.start_thread_soon(self._work, self._deliver)
        except RuntimeError as exc:
            raise SpawnFailedError(f"no thread to spawn from: {exc}", errno=errno.EAGAIN) from exc
        self._is_begun = True

    def take(self) -> T:
        """What the work made, which is the caller's from now on; or raise what it raised."""
        assert self._result is not None
        self._is_wanted = True
        result, self._result = self._result, None
        return result.unwrap()

    def leave(self) -> None:
        """Want nothing of it any more, unless it was taken."""
        self._is_wanted = False
        if not self._is_begun:
            self._limiter.release_on_behalf_of(self)
        elif self._result is not None:
            self._undo_in_thread(self._result)

    def _deliver(self, result: _Result[T]) -> None:
        """Hand the result from the thread to the loop; where that has ended, nobody can want it."""
        try:
            self._token.run_sync_soon(self._settle, result)
        except trio.RunFinishedError:
            self._do_undo(result)

    def _settle(self, result: _Result[T]) -> None:
        self._limiter.release_on_behalf_of(self)
        self.settled.set()
        if self._is_wanted:
            self._result = result
        else:
            self._undo_in_thread(result)

    def _undo_in_thread(self, result: _Result[T]) -> None:
        with suppress(RuntimeError):  # no more threads: the next daemon's hunt for strays ends it
            trio.lowlevel.start_thread_soon(lambda: self._do_undo(result), lambda _: None)

    def _do_undo(self, result: _Result[T]) -> None:
        with suppress(SpawnFailedError):
            self._undo(result.unwrap())


class OwnedThreads:
    """Where spawns run: few at once, and one at a time for each component."""

    def __init__(self) -> None:
        self._places = trio.Semaphore(AT_ONCE)
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def run(self, owner: str, work: Callable[[], T], undo: Callable[[T], None]) -> T:
        """Do some work in a thread. Where the caller is cancelled first, what it made is undone.

        Raises:
            SpawnFailedError: the work said so, or there is no thread to do it in.
        """
        limiter = self._limiters.setdefault(owner, trio.CapacityLimiter(1))
        attempt = _Attempt(work, undo, limiter)
        await limiter.acquire_on_behalf_of(attempt)
        try:
            async with self._places:
                attempt.begin()
                with trio.move_on_after(SLOW):
                    await attempt.settled.wait()
            await attempt.settled.wait()
            return attempt.take()
        finally:
            attempt.leave()
