"""Reaps the orphans that come to a subreaper, and never what somebody waits for.

A wait for any child steals exit codes, so each zombie is looked at before it is reaped. Its owner
reaps a life, a probe's command, and whatever else was spawned on purpose.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from stigmerd.adapters import proc

HIDDEN_PERIOD = 0.1
"""Seconds that a zombie with an owner may hide orphans, before they are looked for in procfs."""

SEARCH_PERIOD = 1.0
"""Seconds between two such searches."""


class Children:
    """Which children have an owner. Spawning threads and the loop share it, hence the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: set[int] = set()
        self._spawning = 0

    @contextmanager
    def spawning(self) -> Iterator[None]:
        """Cover a spawn from before its fork until its pid is claimed."""
        with self._lock:
            self._spawning += 1
        try:
            yield
        finally:
            with self._lock:
                self._spawning -= 1

    def claim(self, pid: int) -> None:
        """Become the only one who may reap a child."""
        with self._lock:
            self._claimed.add(pid)

    def disclaim(self, pid: int) -> None:
        """Leave a child, reaped or not, to whom it may concern."""
        with self._lock:
            self._claimed.discard(pid)

    def is_orphan(self, pid: int) -> bool:
        """Whether a zombie child of ours came from a life, and has no owner.

        What is in our own session was started by this program, and somebody waits for it. A
        session leader may be a spawn that has not been claimed yet.
        """
        try:
            session = os.getsid(pid)
        except ProcessLookupError:
            return False
        with self._lock:
            is_newborn = self._spawning > 0 and session == pid
            return pid not in self._claimed and session != os.getsid(0) and not is_newborn

    def reap_visible(self) -> bool:
        """Reap orphans until no zombie is left, or one with an owner hides the others: then True."""
        while True:
            try:
                zombie = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if zombie is None:
                return False
            if not self._reap(zombie.si_pid):
                return True

    def reap_hidden(self) -> None:
        """Find orphans behind a zombie that has an owner. Blocks for as long as procfs does."""
        for pid in proc.pids():
            stat = proc.read_stat(pid)
            if stat is not None and stat.ppid == os.getpid() and not stat.is_alive:
                self._reap(pid)

    def _reap(self, pid: int) -> bool:
        if not self.is_orphan(pid):
            return False
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        return True


async def reap_orphans(children: Children) -> None:
    """Leave no zombies, until cancelled. Begin this once adopted lives are claimed."""
    if sys.platform != "linux":
        await trio.sleep_forever()  # orphans go to the first process
    limiter = trio.CapacityLimiter(1)
    with trio.open_signal_receiver(signal.SIGCHLD) as arrivals:
        while True:
            if not children.reap_visible():
                await anext(arrivals)
                continue
            await trio.sleep(HIDDEN_PERIOD)  # mostly a life between its exit and its reap
            if children.reap_visible():
                await trio.to_thread.run_sync(children.reap_hidden, abandon_on_cancel=True, limiter=limiter)
                await trio.sleep(SEARCH_PERIOD)
