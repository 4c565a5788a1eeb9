"""A container's processes as this host sees them: only where the engine is on this host, and on Linux.

The proof that a pid belongs to a container is its cgroup, whose path holds the container's id. It
needs neither the engine nor any privilege.

The functions may block for as long as procfs does: the environment of a process cannot be read while
that process, or the kernel for it, has its memory locked. :class:`Tree` calls them in threads.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes.reserve import Reserve

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

LOOKS_AT_ONCE = 4
"""Threads that look at one container: one that hangs must not blind the others."""

T = TypeVar("T")


class Tree:
    """The processes of one container, whose init is ``pid``. A look that hangs is left to itself when cancelled."""

    def __init__(self, pid: int, container_id: str, reserve: Reserve) -> None:
        self._pid = pid
        self._container_id = container_id
        self._reserve = reserve
        self._limiter = trio.CapacityLimiter(LOOKS_AT_ONCE)

    async def members(self) -> frozenset[int]:
        """Who is alive now."""
        return await self._in_thread(partial(cgroup_members, self._pid, self._container_id))

    async def find_marked(self, leader: int, mark: str) -> dict[int, int]:
        """The processes of one ``docker exec``; see :func:`find_marked`."""
        return await self._in_thread(partial(find_marked, self._pid, self._container_id, leader, mark))

    async def kill(self, pids: Iterable[int]) -> frozenset[int]:
        """SIGKILL those of them that are in the container, and tell of which that is not permitted."""
        return await self._in_thread(partial(_kill_members, tuple(pids), self._container_id))

    async def measure(self) -> tuple[dict[int, float], int]:
        """Seconds of processor time by pid, and the resident bytes of all."""
        return await self._in_thread(lambda: proc.measure(cgroup_members(self._pid, self._container_id)))

    async def _in_thread(self, job: Callable[[], T]) -> T:
        return await self._reserve.run(job, self._limiter)


def prove_local(pid: int, container_id: str) -> tuple[int, int] | None:
    """The pid and its start time in ticks, if this very process is the container's; else None."""
    if pid <= 1 or not _cgroups(pid, container_id):
        return None
    try:
        stat = (PROC / str(pid) / "stat").read_text("utf-8", "replace")
        return pid, int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def cgroup_members(pid: int, container_id: str) -> frozenset[int]:
    """The pids in the cgroup of the container whose init is ``pid``, in folders below it too."""
    for folder in _cgroups(pid, container_id):
        pids: set[int] = set()
        for path, _, files in os.walk(folder):
            if "cgroup.procs" in files:
                with suppress(OSError, ValueError):
                    pids.update(int(line) for line in Path(path, "cgroup.procs").read_text().split())
        if pids:
            return frozenset(member for member in pids if not _is_zombie(member))
    return frozenset()


def find_marked(pid: int, container_id: str, leader: int, mark: str) -> dict[int, int]:
    """The processes of one ``docker exec``: host pid to the pid inside the container.

    They are the descendants of ``leader`` and what has the entry ``mark`` in its environment, as far as that
    may be read.
    """
    members = cgroup_members(pid, container_id)
    parents = {member: _status_field(member, "PPid") for member in members}
    found = {member for member in members if member == leader or _has_mark(member, mark)}
    grown = True
    while grown:
        children = {member for member, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return {member: _status_field(member, "NSpid") for member in found if member != pid}


def kill_member(pid: int, container_id: str) -> bool:
    """SIGKILL a process if it is in the container; False where that is not permitted."""
    # Held before it is judged, so that the signal can reach nobody else.
    with proc.held(pid) as pidfd:
        return not _cgroups(pid, container_id) or proc.send(pid, pidfd, signal.SIGKILL)


def _kill_members(pids: Iterable[int], container_id: str) -> frozenset[int]:
    return frozenset(pid for pid in pids if not kill_member(pid, container_id))


def _cgroups(pid: int, container_id: str) -> list[Path]:
    """The folders of the process's cgroups that are this container's."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if container_id in path:
            # Version 2 has no controllers in the line; version 1 a mount of each (name=systemd: systemd).
            folders.append(CGROUPS / controllers.removeprefix("name=") / path.lstrip("/"))
    return folders


def _is_zombie(pid: int) -> bool:
    """Whether it is dead and not reaped: an init that reaps nobody keeps such for as long as it lives."""
    with suppress(OSError):
        status = (PROC / str(pid) / "status").read_text("utf-8", "replace")
        # A process whose main thread has exited shows as a zombie too, and runs.
        return "\nState:\tZ" in status and "\nThreads:\t1\n" in status
    return True


def _status_field(pid: int, name: str) -> int:
    """The last number of a line of ``/proc/PID/status``, 0 where there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in (PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[-1])
    return 0


def _has_mark(pid: int, mark: str) -> bool:
    with suppress(OSError):
        return mark.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False
