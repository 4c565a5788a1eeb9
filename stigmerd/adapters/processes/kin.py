"""Everything of one life: the leader, its group and session, and all descendants, wherever they went.

A cgroup leaf holds them for certain. Without one, or where the leader was put into it late, they
are found by looking at all processes: by the marks in their environment, by session, by parent.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import trio

from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes.cgroup import Leaf
from stigmerd.adapters.processes.leader import Leader
from stigmerd.adapters.processes.proc import Marks, Seen
from stigmerd.adapters.processes.reserve import Reserve

T = TypeVar("T")

FIRST_PAUSE = 0.001
KILL_PAUSE = 0.1
"""Seconds between two rounds of killing: the first, and the longest."""

FIRST_LOOK = 0.01
LOOK_PERIOD = 0.1
"""Seconds between two looks at those who are not killed: the first, and the longest."""

EVENT_BOUND = 1.0
"""Seconds after which a leaf is looked at although it announced nothing."""

ACQUAINTANCE_BOUND = 0.5
"""Seconds for one look before the first signal; a hung procfs must not hold up the signal."""

REMOVE_TRIES = 20
LIMITER_SIZE = 4
"""Threads that look at processes: one that hangs in the kernel must not blind the others."""


class Scans:
    """Looks at all processes, one look at a time, shared by all who asked before it began."""

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self._limiter = trio.CapacityLimiter(LIMITER_SIZE)
        self._begun = 0
        self._done = 0
        self._is_running = False
        self._ended = trio.Event()
        self._seen: list[Seen] = []

    async def in_thread(self, job: Callable[[], T]) -> T:
        """Do what may block for as long as procfs does, whatever it lacks for the moment."""
        return await self._reserve.run(job, self._limiter)

    async def fresh(self) -> list[Seen]:
        """All processes, by a look that begins after this call."""
        mine = self._begun + 1
        while self._done < mine:
            if self._is_running:
                await self._ended.wait()
            else:
                await self._look()
        return self._seen

    async def _look(self) -> None:
        self._is_running = True
        self._begun += 1
        number = self._begun
        try:
            self._seen = await self.in_thread(proc.look)
            self._done = number
        finally:
            self._is_running = False
            self._ended.set()
            self._ended = trio.Event()


class Kin:
    """The members of one life. ``is_member`` judges by marks; ``sealed`` says that the leaf has them all."""

    def __init__(
        self, leader: Leader, leaf: Leaf | None, *, sealed: bool, is_member: Callable[[Marks], bool], scans: Scans
    ) -> None:
        self._leader = leader
        self._leaf = leaf
        self._sealed = sealed and leaf is not None
        self._is_member = is_member
        self._scans = scans
        self._known: set[tuple[int, int]] = set()
        self._is_searched = False

    @property
    def is_unsearched(self) -> bool:
        """Whether it ended in a hurry: nobody has looked for those who may have left the leaf."""
        return self._sealed and not self._is_searched

    async def pids(self) -> tuple[int, ...]:
        """Who is alive now."""
        found = {seen.pid for seen in await self._unsealed()}
        if self._leaf is not None:
            found.update(self._leaf.pids())
        if not self._leader.is_over():
            found.add(self._leader.pid)
        return tuple(sorted(found))

    def is_gone(self) -> bool:
        """Whether nobody is alive, where the leaf has them all; else False."""
        return self._sealed and self._leader.is_over() and not self._is_populated()

    async def wait_gone(self) -> None:
        """Wait until nobody is alive."""
        await self._leader.wait_over()
        pauses = _doubling(FIRST_LOOK, LOOK_PERIOD)
        while self._is_populated() or await self._unsealed() or await self._has_escaped():
            if self._sealed:
                await self._wait_leaf_change()
            else:
                await trio.sleep(next(pauses))

    async def kill(self) -> None:
        """Kill until nobody is alive, however long that takes."""
        if self.is_gone():
            return
        pauses = _doubling(FIRST_PAUSE, KILL_PAUSE)
        if not self._leader.is_over():
            await self.get_to_know()
        for number in itertools.count():
            self.strike()
            with trio.move_on_after(KILL_PAUSE):
                await self._leader.wait_over()
            rest = await self._unsealed()
            is_over = not rest and not self._is_populated() and self._leader.is_over()
            if is_over and not await self._has_escaped():
                return
            if rest:
                await self._scans.in_thread(partial(proc.kill_all, rest, self._is_member, freeze=number > 0))
            with trio.move_on_after(next(pauses)):
                await self._wait_leaf_change() if self._sealed else await trio.sleep_forever()

    async def get_to_know(self) -> None:
        """Look who descends from whom, while those are alive who prove it."""
        with trio.move_on_after(ACQUAINTANCE_BOUND):
            await self._unsealed()

    def strike(self) -> None:
        """SIGKILL at once what can be killed without looking for it."""
        self._leader.signal_group(signal.SIGKILL)
        self._leader.signal(signal.SIGKILL)
        if self._leaf is not None and self._is_populated():
            self._leaf.kill()

    async def release(self) -> None:
        """Reap the leader, and remove the leaf."""
        self._leader.release()
        pauses = _doubling(FIRST_PAUSE, FIRST_LOOK)
        for _ in range(REMOVE_TRIES):
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._leaf is None or self._leaf.remove():
                return
            await trio.sleep(next(pauses))

    def _is_populated(self) -> bool:
        return self._leaf is not None and self._leaf.is_populated()

    async def _unsealed(self) -> list[Seen]:
        """Who is alive and cannot be told by the leaf."""
        if self._sealed:
            return []
        everybody = await self._scans.fresh()
        session = self._leader.pid if self._leader.keeps_pid else None
        # A thousand lives that ask at once would hold up the loop for a second or two.
        find = partial(find_members, everybody, session, frozenset(self._known), self._is_member)
        members = await self._scans.in_thread(find)
        self._known = {(seen.pid, seen.stat.start_ticks) for seen in members}
        return members

    async def _has_escaped(self) -> bool:
        """Whether somebody has left the leaf, as root can. From then on all are looked for.

        Once the leaf is empty, whoever left it is an orphan, and came to us.
        """
        if self._sealed and not self._is_searched and self._leader.may_leave_orphans():
            everybody = await self._scans.fresh()
            self._is_searched = True
            self._sealed = not find_members(everybody, None, (), self._is_member)
        return self._leaf is not None and not self._sealed and bool(await self._unsealed())

    async def _wait_leaf_change(self) -> None:
        """Wait until the leaf has become empty, or something may be different.

        A pending exceptional condition makes the epoll descriptor itself readable, which is what
        Trio can wait for.
        """
        await trio.lowlevel.checkpoint()
        if self._leaf is None or sys.platform != "linux":
            return
        try:
            with ExitStack() as stack:
                events = self._leaf.open_events()
                stack.callback(os.close, events)
                epoll = stack.enter_context(select.epoll())
                epoll.register(events, select.EPOLLPRI)
                if b"populated 1" in os.pread(events, 256, 0):
                    with trio.move_on_after(EVENT_BOUND):
                        await trio.lowlevel.wait_readable(epoll.fileno())
        except OSError:  # it is gone, or there is no descriptor to be had
            await trio.sleep(FIRST_LOOK)


def find_members(
    everybody: Iterable[Seen],
    session: int | None,
    known: Collection[tuple[int, int]],
    is_member: Callable[[Marks], bool],
) -> list[Seen]:
    """Those alive who carry the marks, are in the session or are known by pid and start, and all their
    descendants; never ourselves."""
    alive = {seen.pid: seen for seen in everybody if seen.stat.is_alive and seen.pid not in {1, os.getpid()}}
    families: dict[int, list[int]] = {}
    for pid, seen in alive.items():
        families.setdefault(seen.stat.ppid, []).append(pid)
    members: dict[int, Seen] = {}
    pending = [
        pid
        for pid, seen in alive.items()
        if seen.stat.session == session
        or (pid, seen.stat.start_ticks) in known
        or (seen.marks is not None and is_member(seen.marks))
    ]
    while pending:
        pid = pending.pop()
        if pid not in members:
            members[pid] = alive[pid]
            pending += families.get(pid, [])
    return list(members.values())


def _doubling(first: float, last: float) -> Iterator[float]:
    return itertools.chain((first * 2**n for n in range(32) if first * 2**n < last), itertools.repeat(last))
