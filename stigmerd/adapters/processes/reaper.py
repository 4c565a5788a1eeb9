"""Reaps the orphans that come to a subreaper, and never what somebody waits for.

A wait for any child steals exit codes, so each zombie is looked at before it is reaped. Its owner
reaps a life, a probe's command, and whatever else was spawned on purpose.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio

from stigmerd.adapters.processes import proc

HIDDEN_PERIOD = 0.1
"""Seconds that a zombie with an owner may hide orphans, before they are looked for in procfs."""

LOOK_PERIOD = 0.25
"""Seconds between two looks for orphans. Not at each SIGCHLD: what an exit of a life's own makes the
daemon do besides comes before its next spawn."""

BUSY_PERIOD = 0.01
"""The same while there are some, as there may be thousands."""

SEARCH_PERIOD = 1.0
"""Seconds between two such searches."""


ADOPTION_SPAN = 10.0
"""Seconds in which children of the program that this process was before are left to adoption."""


@dataclass(frozen=True, slots=True)
class Visible:
    """What a look for orphans came to: how many were reaped, and whether a zombie with an owner hides
    those that may be behind it."""

    reaped: int
    hides_others: bool


class Children:
    """Which children have an owner. Spawning threads and the loop share it, hence the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: set[int] = set()
        self._spawning = 0
        self._inherited = _children_of_former_program()
        self._adopted_by = time.monotonic() + ADOPTION_SPAN

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

    def may_be_orphaned(self) -> bool:
        """Whether there is a child that nobody claims: to a subreaper comes whoever outlives his parents."""
        found = proc.children()
        with self._lock:
            return found is None or bool(found - self._claimed)

    def kill_orphans(self) -> bool:
        """Kill and reap children that came to us from what we spawned, and have no owner. Returns whether there may
        be more.

        What was here before this program is none of them; and as the first process of a namespace we get
        everybody's orphans, and cannot tell.
        """
        found = proc.children()
        if found is None:
            return proc.HAS_PROCFS  # a thread has just ended: look again
        orphans = [pid for pid in found - self._inherited if os.getpid() != 1 and self.is_orphan(pid)]
        for pid in orphans:  # a child of ours keeps its pid until it is reaped
            proc.send(pid, None, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return bool(orphans)

    def is_orphan(self, pid: int) -> bool:
        """Whether a child of ours was spawned by nobody who waits for it here, and has no owner.

        What is in our own session was started by this program, and somebody waits for it. A
        session leader may be a spawn that has not been claimed yet; or, after this process replaced
        its program, a life that has not been adopted yet.
        """
        try:
            session = os.getsid(pid)
        except ProcessLookupError:
            return False
        with self._lock:
            is_unclaimed_life = session == pid and (self._spawning > 0 or self._is_to_be_adopted(pid))
            return pid not in self._claimed and session != os.getsid(0) and not is_unclaimed_life

    def _is_to_be_adopted(self, pid: int) -> bool:
        return pid in self._inherited and time.monotonic() < self._adopted_by

    def reap_visible(self) -> Visible:
        """Reap orphans until no zombie is left, or one with an owner hides the others."""
        reaped = 0
        while (zombie := _any_zombie()) is not None:
            if not self._reap(zombie):
                return Visible(reaped=reaped, hides_others=True)
            reaped += 1
        return Visible(reaped=reaped, hides_others=False)

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


def _any_zombie() -> int | None:
    try:
        zombie = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return zombie.si_pid if zombie is not None else None


def _children_of_former_program() -> frozenset[int]:
    """The children that this process has before it has spawned any: it replaced its program by exec."""
    stats = (proc.read_stat(pid) for pid in proc.pids())
    return frozenset(stat.pid for stat in stats if stat is not None and stat.ppid == os.getpid())


async def reap_orphans(children: Children) -> None:
    """Leave no zombies, until cancelled."""
    if sys.platform != "linux":
        await trio.sleep_forever()  # orphans go to the first process
    limiter = trio.CapacityLimiter(1)
    while True:
        seen = children.reap_visible()
        if not seen.hides_others:
            await trio.sleep(BUSY_PERIOD if seen.reaped else LOOK_PERIOD)
            continue
        await trio.sleep(HIDDEN_PERIOD)  # mostly a life between its exit and its reap
        if children.reap_visible().hides_others:
            with suppress(RuntimeError, OSError):  # no thread, no descriptor: zombies can wait
                await trio.to_thread.run_sync(children.reap_hidden, abandon_on_cancel=True, limiter=limiter)
            await trio.sleep(SEARCH_PERIOD)
