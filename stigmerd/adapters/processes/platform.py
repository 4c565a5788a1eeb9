"""What this machine offers beyond POSIX, each behind a switch, so that all can be tried without it."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

from stigmerd.adapters.processes import cgroup, proc

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What lives may be built on.

    ``pidfd``: processes are held and watched by a descriptor. ``cgroup``: the folder in which each
    life gets a leaf, or None. ``spawner``: a helper may be kept that clones lives into their leaves.
    ``subreaper``: orphans of our lives come to us.
    """

    pidfd: bool = False
    cgroup: str | None = None
    spawner: bool = False
    subreaper: bool = False

    @classmethod
    def detect(cls, home: str) -> Platform:
        """Find out by trying. It makes this process a subreaper, where that can be."""
        base = cgroup.find_base(home) if sys.platform == "linux" else None
        return cls(pidfd=proc.has_pidfd(), cgroup=base, spawner=base is not None, subreaper=become_subreaper())


def become_subreaper() -> bool:
    """Let orphans of our descendants become our children. Source: prctl(2); it outlasts exec."""
    if sys.platform != "linux":
        return False
    if os.getpid() == 1:
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0
