"""Looks at processes also where threads and descriptors have run out: what a stop needs is held back.

Threads run out with processes: a fork bomb takes both, and to end it the processes have to be looked
at. So one thread is started in time. What can wait for better times does not come here.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

import outcome
import trio

from stigmerd.adapters.processes.proc import SHORTAGES

PAUSE = 0.1
"""Seconds until what a shortage refused is tried again."""

FEW = 32
"""Descriptors that are few: enough for a stop, too few for all that may come at once."""

T = TypeVar("T")


class _NoThreadError(Exception):
    """There is no thread for a job, not even the one that was to be held back."""


class Reserve:
    """Runs jobs in threads, as Trio does, and one after the other in a thread of its own where none can be had.

    To be used as a context; outside of it there is no such thread, and a job waits until there is
    another. A job that hangs there hangs the later ones too, whose callers are bounded.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_wanted = False
        self._is_there = False

    def __enter__(self) -> Self:
        self._is_wanted = True
        self._hold_back()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_wanted = self._is_there = False
        self._jobs.put(None)

    def _hold_back(self) -> None:
        """Start the thread, unless it is there. In a shortage there may be none: a later job finds one."""
        if self._is_wanted and not self._is_there:
            with suppress(RuntimeError):
                threading.Thread(target=self._work, name="reserve", daemon=True).start()
                self._is_there = True

    async def run(self, job: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        """What the job returns, as soon as no shortage refuses it.

        Where the caller is cancelled, the job is left to itself.
        """
        while True:
            try:
                return await self._run_once(job, limiter)
            except _NoThreadError:
                pass
            except OSError as exc:
                if exc.errno not in SHORTAGES:
                    raise
            await trio.sleep(PAUSE)

    async def _run_once(self, job: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        self._hold_back()
        is_begun = False

        def begin() -> T:
            nonlocal is_begun
            is_begun = True
            return job()

        try:
            return await trio.to_thread.run_sync(begin, abandon_on_cancel=True, limiter=limiter)
        except RuntimeError as exc:
            if is_begun:
                raise
            if not self._is_there:
                raise _NoThreadError from exc
        return await self._run_here(job)

    async def _run_here(self, job: Callable[[], T]) -> T:
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        results: list[outcome.Outcome[T]] = []

        def work() -> None:
            results.append(outcome.capture(job))
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        self._jobs.put(work)
        await done.wait()
        return results[0].unwrap()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def describe_shortage(descriptor: int) -> str | None:
    """One sentence if hardly any descriptors are left, else None. ``descriptor`` is any that is open.

    A new one has the lowest number that is free, so that hardly more are left than lie above it.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        number = os.dup(descriptor)
    except OSError as exc:
        return f"no descriptor is left ({exc.strerror}): give the daemon more, with `ulimit -n`"
    os.close(number)
    left = limit - number
    if limit == resource.RLIM_INFINITY or left > FEW:
        return None
    return f"{left} descriptors are left of {limit}: give the daemon more, with `ulimit -n`"
