"""Which process is which: proof that a process is the life a record names, and nobody else.

A pid says little: it is reused. A life is proven by boot, pid, start time and the nonce in its
environment, and by the inode of its pidfd where the kernel has those. The CLI asks the same
questions when no daemon runs, so nothing here uses Trio.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stigmerd.adapters.processes import cgroup, proc
from stigmerd.adapters.processes.proc import read_stat, signal_name, signal_number, start_ticks
from stigmerd.core.record import DaemonRecord, Identity
from stigmerd.core.spec import StopPolicy

__all__ = [
    "Found",
    "Stray",
    "boot_id",
    "end_strays_blocking",
    "find_ours",
    "is_alive",
    "is_running",
    "prove",
    "read_stat",
    "signal_name",
    "signal_number",
    "start_ticks",
]

STRAY_LIMIT = 5.0
"""Seconds of killing after which what is still there counts as unkillable."""

STRIKE_PERIOD = 0.01
"""Seconds from one look at the strays to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A living process whose environment names a home, a component and a life."""

    pid: int
    component: str
    nonce: str
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """What was left of a life that nobody claims. If not ``gone``, ``pids`` are what cannot be killed."""

    component: str
    nonce: str
    pids: tuple[int, ...]
    gone: bool


@functools.cache
def boot_id() -> str:
    """What is the same until the next boot, and never again."""
    if proc.HAS_PROCFS:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    import psutil

    return f"boot-{int(psutil.boot_time())}"


def prove(identity: Identity) -> bool:
    """Whether there is a process, running or a zombie, that provably is the one of the identity.

    A pid of 0, 1, -1 or our own is never proven, whatever a record says.
    """
    pid = identity.pid
    if pid is None or pid <= 1 or pid == os.getpid() or identity.boot_id != boot_id():
        return False
    stat = read_stat(pid)
    if stat is None or stat.start_ticks != identity.start_ticks:
        return False
    with proc.held(pid) as pidfd:
        inode = proc.inode_of(pidfd) if pidfd is not None else None
    has_inodes = inode is not None and identity.pidfd_inode is not None
    if has_inodes and inode != identity.pidfd_inode:
        return False
    marks = proc.read_marks(pid)
    if marks is not None:
        return marks.nonce == identity.nonce
    # A zombie has no environment, and some programs write their title over it.
    return has_inodes or _is_in_leaf(pid, identity) or (not stat.is_alive and stat.ppid == os.getpid())


def is_alive(identity: Identity) -> bool:
    """Whether the process of the identity is provably there, and runs."""
    if identity.pid is None or not prove(identity):
        return False
    stat = read_stat(identity.pid)
    return stat is not None and stat.start_ticks == identity.start_ticks and stat.is_alive


def is_running(daemon: DaemonRecord) -> bool:
    """Whether that very daemon of this boot runs. One that was killed may be a zombie for long, under a lazy PID 1."""
    found = read_stat(daemon.pid)
    return found is not None and found.is_alive and found.start_ticks == daemon.start_ticks


def _is_in_leaf(pid: int, identity: Identity) -> bool:
    """Whether a process is in the cgroup into which only the life with this nonce was put."""
    leaf = os.path.basename(identity.cgroup or "")
    is_of_life = bool(identity.nonce) and leaf.endswith(f".{identity.nonce}")
    return is_of_life and os.path.basename(proc.cgroup_of(pid) or "") == leaf


def find_ours(home: str) -> list[Found]:
    """Every living process of our user whose environment names this home, a component and a life.

    For root, whose components may run as anybody, all users' processes count. The calling process
    is never among them.
    """
    return [
        Found(
            pid=seen.pid,
            component=seen.marks.component,
            nonce=seen.marks.nonce,
            start_ticks=seen.stat.start_ticks,
        )
        for seen in _look_for(home)
        if seen.marks is not None
    ]


def _look_for(home: str) -> list[proc.Seen]:
    homes = {home, os.path.realpath(home)}
    return [
        seen
        for seen in proc.look()
        if seen.marks is not None
        and seen.marks.home in homes
        and seen.stat.is_alive
        and seen.pid != os.getpid()
        and _is_of_our_user(seen.pid)
    ]


def _is_of_our_user(pid: int) -> bool:
    # Where there is no procfs, the system shows nobody the environment of another's process.
    return os.geteuid() == 0 or not proc.HAS_PROCFS or proc.owner_of(pid) == os.geteuid()


def end_strays_blocking(
    home: str,
    grace: float,
    *,
    keep: Collection[str] = (),
    only: str | None = None,
    probe: str | None = None,
    policies: Mapping[str, StopPolicy] | None = None,
    leaders: Mapping[str, Identity] | None = None,
) -> list[Stray]:
    """End everything that a dead daemon of this home left, but for the lives whose nonces are in ``keep``.

    Processes are asked by SIGTERM and have ``grace`` seconds, unless ``policies`` has one for their component;
    then all is killed, in at most ``STRAY_LIMIT`` seconds. The commands of a dead daemon's probes are never
    kept. ``only`` is the nonce of a life, to end what is left of that one alone; with ``probe``, of that
    command beside it. ``leaders`` are the lives on record, by component: some cannot be told by what their
    environment says, as they wrote over it, or became another user's.
    """
    hunt = _Hunt(home, frozenset(keep), only, probe, leaders or {})
    if grace > 0 or policies:
        hunt.ask(policies or {}, StopPolicy(grace=grace))
    hunt.kill(time.monotonic() + STRAY_LIMIT)
    return hunt.strays()


@dataclass(slots=True)
class _Trace:
    """What was found of one life; ``alive`` as of the last look."""

    component: str
    ever: set[int] = field(default_factory=set)
    alive: set[int] = field(default_factory=set)


class _Hunt:
    """One search for strays: by their marks, by the leaves that they were born in, and by what is on record."""

    def __init__(
        self,
        home: str,
        keep: frozenset[str],
        only: str | None,
        probe: str | None,
        leaders: Mapping[str, Identity],
    ) -> None:
        self._home = home
        self._homes = {home, os.path.realpath(home)}
        self._keep = keep
        self._only = only
        self._probe = probe
        self._leaders = leaders
        self._unmarked: dict[str, Identity] = {}
        """The leaders that are alive and were not found by their marks, by component."""
        self._traces: dict[str, _Trace] = {}
        self._marked: list[proc.Seen] = []
        self._leaves: set[cgroup.Leaf] = set()

    def ask(self, policies: Mapping[str, StopPolicy], default: StopPolicy) -> None:
        """Send each process the stop signal of its component once. Kill what outlives its grace, and return
        when nothing is alive, or every grace is over."""
        began = time.monotonic()
        asked: set[int] = set()
        while self._look() and time.monotonic() - began < self._longest_grace(policies, default):
            waited = time.monotonic() - began
            for seen in self._marked:
                policy = policies.get(seen.marks.component, default) if seen.marks is not None else default
                if policy.grace <= waited:
                    proc.strike(seen, signal.SIGKILL)
                elif seen.pid not in asked:
                    proc.strike(seen, signal_number(policy.signal))
                    proc.strike(seen, signal.SIGCONT)
                    asked.add(seen.pid)
            for component, leader in self._unmarked.items():
                policy = policies.get(component, default)
                if policy.grace <= waited:
                    _strike_leader(leader, signal.SIGKILL)
                elif leader.pid is not None and leader.pid not in asked:
                    _strike_leader(leader, signal_number(policy.signal), signal.SIGCONT)
                    asked.add(leader.pid)
            for leaf in self._leaves:
                policy = policies.get(leaf.component, default)
                if policy.grace <= waited:
                    leaf.kill()
                else:
                    self._ask_unmarked(leaf, signal_number(policy.signal), asked)
            time.sleep(STRIKE_PERIOD)

    def _ask_unmarked(self, leaf: cgroup.Leaf, number: int, asked: set[int]) -> None:
        """The same for those in a leaf whose environment says nothing: some programs write their title over it."""
        for pid in set(leaf.pids()) - asked:
            with proc.held(pid) as pidfd:
                if pidfd is not None and pid in leaf.pids():
                    proc.send(pid, pidfd, number)
                    proc.send(pid, pidfd, signal.SIGCONT)
                    asked.add(pid)

    def _longest_grace(self, policies: Mapping[str, StopPolicy], default: StopPolicy) -> float:
        alive = (trace.component for trace in self._traces.values() if trace.alive)
        return max((policies.get(component, default).grace for component in alive), default=0.0)

    def kill(self, until: float) -> None:
        """Kill until nothing is left, or the time is over."""
        round_number = 0
        while self._look() and (round_number == 0 or time.monotonic() < until):
            for leaf in self._leaves:
                leaf.kill()
            for leader in self._unmarked.values():
                _strike_leader(leader, signal.SIGKILL)
            proc.kill_all(self._marked, self._is_marked_stray, freeze=round_number > 0)
            round_number += 1
            time.sleep(STRIKE_PERIOD)
        for leaf in self._leaves:
            leaf.remove()
            cgroup.remove_base(os.path.dirname(leaf.path))

    def strays(self) -> list[Stray]:
        """What was found, as of the last look. A leaf that was left empty is not worth a word."""
        return [
            Stray(
                component=trace.component,
                nonce=nonce,
                pids=tuple(sorted(trace.alive or trace.ever)),
                gone=not trace.alive,
            )
            for nonce, trace in sorted(self._traces.items())
            if trace.ever
        ]

    def _look(self) -> bool:
        """Look for strays, and say whether any is alive."""
        for trace in self._traces.values():
            trace.alive.clear()
        self._marked = []
        for seen in _look_for(self._home):
            if seen.marks is not None and self._is_marked_stray(seen.marks):
                self._marked.append(seen)
                self._note(seen.marks.component, seen.marks.nonce, [seen.pid])
        self._look_at_leaders()
        self._look_into_leaves()
        return any(trace.alive for trace in self._traces.values())

    def _look_at_leaders(self) -> None:
        marked = {seen.pid for seen in self._marked}
        self._unmarked = {
            component: leader
            for component, leader in self._leaders.items()
            if leader.pid not in marked and self._is_stray(leader.nonce, None) and is_alive(leader)
        }
        for component, leader in self._unmarked.items():
            self._note(component, leader.nonce, [leader.pid] if leader.pid is not None else [])

    def _look_into_leaves(self) -> None:
        theirs = (cgroup.leaf_of(seen.pid, self._home) for seen in self._marked)
        candidates = {*cgroup.leaves(self._home), *filter(None, theirs)}
        self._leaves |= {leaf for leaf in candidates if self._is_stray(leaf.nonce, leaf.probe)}
        for leaf in self._leaves:
            self._note(leaf.component, leaf.nonce, [pid for pid in leaf.pids() if pid != os.getpid()])

    def _is_marked_stray(self, marks: proc.Marks) -> bool:
        return marks.home in self._homes and self._is_stray(marks.nonce, marks.probe)

    def _is_stray(self, nonce: str, probe: str | None) -> bool:
        if self._only is not None:
            return nonce == self._only and self._probe in {None, probe}
        return probe is not None or nonce not in self._keep

    def _note(self, component: str, nonce: str, pids: list[int]) -> None:
        trace = self._traces.setdefault(nonce, _Trace(component))
        trace.ever.update(pids)
        trace.alive.update(pids)


def _strike_leader(leader: Identity, *numbers: int) -> None:
    """Send signals to a process while its pid is provably still that process."""
    if leader.pid is not None:
        with proc.held(leader.pid) as pidfd:
            if prove(leader):
                for number in numbers:
                    proc.send(leader.pid, pidfd, number)
