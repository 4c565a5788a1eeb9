"""One process, held so that its pid cannot be mistaken: watched, signalled, its exit read, reaped.

A child of ours keeps its pid until it is reaped, and so does its process group. A process that an
earlier daemon spawned is held by its pidfd alone.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from contextlib import ExitStack, suppress

import trio

from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes.reaper import Children
from stigmerd.adapters.processes.spawn import Spawned
from stigmerd.core.exit_status import ExitStatus

PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2
"""Linux 6.9: the group whose number is this process's, even after its leader is gone."""

LOOK_PERIOD = 0.02
"""Seconds between looks where the platform announces no exits; within the 50 ms that docs/reliability.md promises."""


class Leader:
    """The process that was spawned. ``pid`` stays what it was; all else may end at any time."""

    def __init__(
        self, pid: int, start_ticks: int | None, pidfd: int | None, children: Children, *, is_child: bool
    ) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self._pidfd = pidfd
        self._children = children
        self._is_child = is_child
        self._is_reaped = False
        self._status: ExitStatus | None = None
        self._is_watched = False
        self._changed = trio.Event()

    @classmethod
    def of(cls, spawned: Spawned, children: Children) -> Leader:
        """The leader of what was just spawned."""
        return cls(spawned.pid, spawned.start_ticks, spawned.pidfd, children, is_child=True)

    @classmethod
    def hold(cls, pid: int, children: Children, *, use_pidfd: bool) -> Leader | None:
        """Hold a process of an earlier daemon, or of this one before it replaced its program.

        Prove its identity after this, not before: then the proof is about what is held.

        Raises:
            OSError: there is no descriptor for it.
        """
        pidfd = proc.open_pidfd(pid) if use_pidfd else None
        with ExitStack() as stack:
            if pidfd is not None:
                stack.callback(os.close, pidfd)
            stat = proc.read_stat(pid)
            if stat is None:
                return None
            if use_pidfd and pidfd is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            stack.pop_all()
        children.claim(pid)
        return cls(pid, stat.start_ticks, pidfd, children, is_child=_is_child(pid))

    @property
    def inode(self) -> int | None:
        """The pidfd's inode, where it proves anything."""
        return proc.inode_of(self._pidfd) if self._pidfd is not None else None

    @property
    def keeps_pid(self) -> bool:
        """Whether its number can be nobody else's now, as process, group or session."""
        return (self._is_child and not self._is_reaped) or not self.is_over()

    @property
    def status(self) -> ExitStatus:
        """How it ended; unknown for as long as it is not over."""
        return self._status or ExitStatus()

    def is_over(self) -> bool:
        """Whether it has exited, all threads of it, reaped or not."""
        if self._status is None:
            self._status = self._look()
        return self._status is not None

    async def wait_over(self) -> None:
        """Wait for its exit. Any number of tasks may."""
        await trio.lowlevel.checkpoint()
        while not self.is_over():
            if self._is_watched:
                await self._changed.wait()
                continue
            # A descriptor can have one waiter; the others wait for that one, or take its place.
            self._is_watched = True
            try:
                await self._wait_change()
            finally:
                self._is_watched = False
                self._changed.set()
                self._changed = trio.Event()

    def signal(self, number: int) -> None:
        """Send it a signal, unless it is over."""
        if self.is_over():
            return
        if self._pidfd is not None or self._is_child:
            proc.send(self.pid, self._pidfd, number)
            return
        with suppress(OSError):  # who cannot be looked at cannot be told from a stranger
            stat = proc.read_stat(self.pid)
            if stat is not None and stat.start_ticks == self.start_ticks:
                proc.strike(proc.Seen(stat, proc.read_marks(self.pid)), number)

    def signal_group(self, number: int) -> None:
        """Send a signal to its process group, if the group is provably its own still."""
        if self._signal_group_by_pidfd(number) or not self.keeps_pid:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def release(self) -> None:
        """Reap it, if it is ours to reap, and let go of it."""
        if self._is_child and not self._is_reaped:
            with suppress(ChildProcessError):
                self._is_reaped = os.waitpid(self.pid, os.WNOHANG) != (0, 0)
        self.let_go()

    def may_leave_orphans(self) -> bool:
        """Whether somebody's child may have come to us. Where it left nobody, none has."""
        return not self._is_child or self._children.may_be_orphaned()

    def let_go(self) -> None:
        """Hold it no longer. It is not reaped by that."""
        if self._pidfd is not None:
            trio.lowlevel.notify_closing(self._pidfd)
        self.drop()

    def drop(self) -> None:
        """The same in any thread, for one that nobody waits for yet."""
        self._children.disclaim(self.pid)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _signal_group_by_pidfd(self, number: int) -> bool:
        if self._pidfd is None or sys.platform != "linux":
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number, None, PIDFD_SIGNAL_PROCESS_GROUP)
        except (ProcessLookupError, PermissionError):
            return True  # the group is empty, or none of it is ours to signal
        except OSError:
            return False  # an older kernel
        return True

    def _look(self) -> ExitStatus | None:
        """How it ended, None while it runs."""
        if self._is_child:
            status = self._peek()
            if status is not None or self._pidfd is None or not proc.is_pidfd_over(self._pidfd):
                return status
            # It ended since; or under a debugger, and a wait says nothing until that has taken note.
            return self._peek() or self._look_at_stranger()
        return self._look_at_stranger() if self._has_exited() else None

    def _look_at_stranger(self) -> ExitStatus:
        return proc.status_of_stranger(self.pid, self.start_ticks or 0, self._pidfd)

    def _has_exited(self) -> bool:
        if self._pidfd is not None:
            return proc.is_pidfd_over(self._pidfd)
        try:
            stat = proc.read_stat(self.pid)
        except OSError:
            return False  # it cannot be told now
        return stat is None or stat.start_ticks != self.start_ticks or not stat.is_alive

    def _peek(self) -> ExitStatus | None:
        """Our child's status, None while it runs; unknown if somebody else has reaped it."""
        try:
            return proc.peek(self.pid)
        except ChildProcessError:
            return ExitStatus()

    async def _wait_change(self) -> None:
        if self._pidfd is not None:
            with suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._pidfd)
        elif sys.platform == "darwin":
            await _wait_exit_event(self.pid)
        else:
            await trio.sleep(LOOK_PERIOD)


def _is_child(pid: int) -> bool:
    try:
        proc.peek(pid)
    except ChildProcessError:
        return False
    return True


if sys.platform == "darwin":

    async def _wait_exit_event(pid: int) -> None:
        """Wait for the exit of a process by kqueue. Source: kqueue(2), EVFILT_PROC."""
        queue = trio.lowlevel.current_kqueue()

        def event(flags: int) -> select.kevent:
            return select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)

        def abort(_: object) -> trio.lowlevel.Abort:
            queue.control([event(select.KQ_EV_DELETE)], 0)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            queue.control([event(select.KQ_EV_ADD | select.KQ_EV_ONESHOT)], 0)
        except ProcessLookupError:
            await trio.sleep(LOOK_PERIOD)  # exiting just now
            return
        await trio.lowlevel.wait_kevent(pid, select.KQ_FILTER_PROC, abort)
