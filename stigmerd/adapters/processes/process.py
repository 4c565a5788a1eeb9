"""Lives that are processes: launched, adopted, asked to end, ended, and proven dead.

What makes a process, holds it, and finds what belongs to it is in the modules beside; here they
become what the engine asks for.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from signal import SIGCONT

import trio

from stigmerd.adapters.processes import cgroup, identity, prepare, proc
from stigmerd.adapters.processes import spawn as spawning
from stigmerd.adapters.processes.cgroup import Leaf
from stigmerd.adapters.processes.fugitives import Fugitives
from stigmerd.adapters.processes.identity import Stray
from stigmerd.adapters.processes.kin import Kin, Scans
from stigmerd.adapters.processes.leader import Leader
from stigmerd.adapters.processes.owned_thread import OwnedThreads
from stigmerd.adapters.processes.platform import Platform
from stigmerd.adapters.processes.proc import Marks
from stigmerd.adapters.processes.reaper import Children, reap_orphans
from stigmerd.adapters.processes.reserve import Reserve
from stigmerd.adapters.processes.spawn import Blueprint, Spawned
from stigmerd.adapters.processes.spawner_link import Spawner
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.record import Identity
from stigmerd.core.spec import ComponentSpec, ProcessSpec, StopPolicy
from stigmerd.engine.ports import TAIL_BYTES, CommandResult, LaunchOrder, PortWatch, Shut, SpawnFailedError, Usage

SHORTAGES = proc.SHORTAGES | {errno.EAGAIN}
"""EAGAIN is fork's word for no more processes."""

REFUSAL_SPAN = 75.0
"""Seconds for which a refusal is a present problem, unless the next attempt goes well: longer than any backoff
that is usual."""

COMMAND_KILL_BOUND = 5.0
"""Seconds in which the tree of a cancelled command has to be dead; what hangs in the kernel is left."""

FAREWELL_BOUND = 0.05
"""Seconds that a cancelled command takes longer than it was given: no attempt of a probe outlives its limit
by more. Where all processes have to be looked at, the end of its tree can take longer, and goes on by itself."""

SHOWN_PATH = 60
"""Characters of a PATH that are worth their place in a sentence."""

READ_SIZE = 65536
LEFTOVER_READS = 16
"""Reads of what is in the pipe when a command has ended: what holds the pipe open may go on writing."""

ORPHAN_LOOKS = 100
ORPHAN_PAUSE = 0.01
"""How often, and seconds apart, orphans are ended when no life goes on."""

PROOFS_AT_ONCE = 8
"""Threads that take over lives: thousands may be waiting, and one may hang in the kernel."""

USAGE_SPAN = 0.1
"""Seconds over which processor time is measured."""


class ProcessLauncher:
    """Launches and adopts processes for one home.

    ``environment`` is the daemon's own as it was when it started, ``children_nofile`` its soft limit
    of descriptors then. ``open_log`` gives a descriptor for appending to a component's log; where
    there are no leaves it is called in threads, as is ``spawn``. While anything runs, :meth:`serve`
    has to.
    """

    def __init__(
        self,
        *,
        home: str,
        environment: Mapping[str, str],
        platform: Platform,
        open_log: Callable[[str], int],
        port_watch: PortWatch,
        children_nofile: int | None = None,
        spawn: Callable[[Blueprint, Children], Spawned] = spawning.spawn,
    ) -> None:
        self.home = home
        self.homes = frozenset({home, os.path.realpath(home)})
        self._environment = spawning.without_private(environment)
        self._platform = platform
        self._open_log = open_log
        self._port_watch = port_watch
        self._nofile = children_nofile
        self._spawn = spawn
        self._threads = OwnedThreads()
        self._hunting = trio.CapacityLimiter(1)
        self._proving = trio.CapacityLimiter(PROOFS_AT_ONCE)
        self._refusals: dict[str, tuple[float, str]] = {}
        """By component: when and why it was refused a process for want of something."""
        self.children = Children()
        self._reserve = Reserve()
        self.scans = Scans(self._reserve)
        self.fugitives = Fugitives(self.homes, self.children, self.scans)
        self._spawner = Spawner(self._environment, self.children, children_nofile) if platform.spawner else None
        self._tasks: trio.Nursery | None = None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reap orphans of lives, end commands, keep the spawner and what is held back, until cancelled."""
        with self._reserve:
            task_status.started()
            await self._serve()

    async def _serve(self) -> None:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self.fugitives.serve)
            if self._spawner is not None:
                tasks.start_soon(self._spawner.serve)
            self._tasks = tasks
            try:
                await reap_orphans(self.children)
            finally:
                self._tasks = None

    async def put_down(self, kin: Kin, gone: trio.Event) -> None:
        """End the tree of a command that was cut off; what takes longer than a moment goes on after this returns."""
        work: Callable[[], Awaitable[None]] = partial(_end_command, kin, gone)
        if self._tasks is not None:  # else this program is about to end, and what is left is a stray to the next
            self._tasks.start_soon(_end_command, kin, gone)
            work = gone.wait
        with trio.move_on_after(FAREWELL_BOUND, shield=True):  # bounded by that
            await work()

    async def end_orphans(self) -> None:
        """End who came to us from lives that are over, and could not be told to be of them: without a leaf, and
        with an environment that is gone or not for us to read. To be called when no life goes on."""
        for _ in range(ORPHAN_LOOKS):
            if not self.children.kill_orphans():
                return
            await trio.sleep(ORPHAN_PAUSE)

    def close(self) -> None:
        """Remove the folder of the leaves, unless a life goes on in it. Who was cut off in the middle of its end may
        have left one that is empty."""
        if self._platform.cgroup is not None:
            for leaf in cgroup.leaves(self.home):
                leaf.remove()
            cgroup.remove_base(self._platform.cgroup)

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what the machine has refused of late for want of something."""
        since = trio.current_time() - REFUSAL_SPAN
        self._refusals = {name: refusal for name, refusal in self._refusals.items() if refusal[0] > since}
        return tuple(f"{name} cannot be started for now: {said}" for name, (_, said) in self._refusals.items())

    async def check_gate(self, spec: ComponentSpec) -> Shut | None:
        """Look whether a stranger listens on one of the component's ports."""
        if not spec.ports:
            return None
        stranger = await self._port_watch.strangers(spec.ports, frozenset())
        return Shut(reason="port", message=stranger) if stranger is not None else None

    def begin(self, order: LaunchOrder) -> None:
        """Send the order for a process to the spawner, if there is one and it is not busy; see the port."""
        if self._spawner is not None:
            name = order.spec.name
            blueprint = self._blueprint(order, process_of(order.spec).argv, partial(self._open_log, name), None)
            self._spawner.begin(name, blueprint)

    async def launch(self, order: LaunchOrder) -> ProcessLife:
        """Spawn the process of a component; see the port."""
        name = order.spec.name
        began = trio.current_time()
        spawned = await self.spawn(order, process_of(order.spec).argv, partial(self._open_log, name), owner=name)
        leader = Leader.of(spawned, self.children)
        proof = Identity(
            nonce=order.nonce,
            boot_id=identity.boot_id(),
            pid=leader.pid,
            start_ticks=leader.start_ticks,
            pidfd_inode=leader.inode,
            cgroup=spawned.leaf.path if spawned.leaf is not None else None,
            sealed=spawned.sealed,
        )
        return ProcessLife(self, order, proof, leader, spawned.leaf, sealed=spawned.sealed, began=began)

    async def adopt(self, order: LaunchOrder, identity: Identity) -> ProcessLife | None:
        """Take over a life of an earlier daemon, running or a zombie; see the port.

        Where there is none, everything that is left of it is ended before this returns.
        """
        adopted = await self._reserve.run(partial(self._hold, order, identity), self._proving)
        if adopted is None:
            await self._end_rest(identity.nonce)
            return None
        leader, leaf = adopted
        began = trio.current_time() - _age(leader.start_ticks)
        return ProcessLife(self, order, identity, leader, leaf, sealed=identity.sealed, began=began)

    async def end_strays(
        self,
        keep: Collection[str],
        policies: Mapping[str, StopPolicy] | None = None,
        leaders: Mapping[str, Identity] | None = None,
    ) -> list[Stray]:
        """End everything of this home but the lives with these nonces, and tell what it was.

        Components with a policy have their signal and their grace; all is over 5 s after the longest of these.
        """
        hunt = partial(
            identity.end_strays_blocking, self.home, 0, keep=frozenset(keep), policies=policies, leaders=leaders
        )
        return await self._reserve.run(hunt, self._hunting)

    async def spawn(
        self,
        order: LaunchOrder,
        argv: Sequence[str],
        open_output: Callable[[], int],
        *,
        owner: str,
        probe: str | None = None,
    ) -> Spawned:
        """Spawn the process of a life, or a command beside it that is told apart by ``probe``."""
        blueprint = self._blueprint(order, argv, open_output, probe)
        try:
            spawned = await self._spawn_somehow(owner, blueprint, partial(self._end, order.nonce, probe))
        except SpawnFailedError as exc:
            if exc.errno in SHORTAGES:
                self._refusals[order.spec.name] = (trio.current_time(), order.spec.conceal(str(exc)))
            if str(exc) == prepare.not_on_path(argv[0]):
                shown = _shown_path(order.spec, prepare.search_path(blueprint.env))
                raise SpawnFailedError(f"{exc} {shown}", errno=exc.errno) from exc
            raise
        self._refusals.pop(order.spec.name, None)
        return spawned

    async def _spawn_somehow(self, owner: str, blueprint: Blueprint, undo: Callable[[Spawned], None]) -> Spawned:
        if self._spawner is not None and (spawned := await self._spawner.spawn(owner, blueprint)) is not None:
            return spawned
        return await self._threads.run(owner, partial(self._spawn, blueprint, self.children), undo)

    def _blueprint(
        self, order: LaunchOrder, argv: Sequence[str], open_output: Callable[[], int], probe: str | None
    ) -> Blueprint:
        spec, name, base = process_of(order.spec), order.spec.name, self._platform.cgroup
        marks = {proc.HOME_MARK: self.home, proc.COMPONENT_MARK: name, proc.LIFE_MARK: order.nonce}
        if probe is not None:
            marks[proc.PROBE_MARK] = probe
        return Blueprint(
            argv=tuple(argv),
            cwd=spec.cwd,
            env=spawning.environment_for(self._environment, spec.env, cwd=spec.cwd, marks=marks),
            open_output=open_output,
            user=spec.user,
            group=spec.group,
            umask=spec.umask,
            nofile=spec.nofile,
            soft_nofile=self._nofile,
            leaf=cgroup.leaf_in(base, name, order.nonce, probe) if base is not None else None,
            use_pidfd=self._platform.pidfd,
        )

    def _end(self, nonce: str, probe: str | None, spawned: Spawned) -> None:
        """End, in its thread, what came to be after it was given up."""
        spawning.end(spawned, self.children)
        if not spawned.sealed:
            identity.end_strays_blocking(self.home, 0, only=nonce, probe=probe)

    async def _end_rest(self, nonce: str) -> None:
        hunt = partial(identity.end_strays_blocking, self.home, 0, only=nonce)
        await self._reserve.run(hunt, self._hunting)

    def _hold(self, order: LaunchOrder, claimed: Identity) -> tuple[Leader, Leaf | None] | None:
        if claimed.pid is None or not identity.prove(claimed):
            return None
        leader = Leader.hold(claimed.pid, self.children, use_pidfd=self._platform.pidfd)
        if leader is None:
            return None
        with ExitStack() as stack:
            stack.callback(leader.drop)
            if not identity.prove(claimed):
                return None
            stack.pop_all()
        return leader, cgroup.recorded_leaf(claimed.cgroup, self.home, order.spec.name, claimed.nonce)


class ProcessLife:
    """One process of a component, with all that comes from it; see :class:`stigmerd.engine.ports.Life`."""

    note = ""

    def __init__(
        self,
        launcher: ProcessLauncher,
        order: LaunchOrder,
        identity: Identity,
        leader: Leader,
        leaf: Leaf | None,
        *,
        sealed: bool,
        began: float,
    ) -> None:
        self._launcher = launcher
        self._order = order
        self._identity = identity
        self._leader = leader
        self._leaf = leaf
        self._began = began
        self._commands: set[str] = set()
        self._ending: dict[tuple[str, ...], trio.Event] = {}
        """Set once the tree of a command that was cut off is dead: it never runs twice at once."""
        self._kin = Kin(leader, leaf, sealed=sealed, is_member=self._is_member, scans=launcher.scans)

    @property
    def identity(self) -> Identity:
        """What proves which process this is."""
        return self._identity

    def age(self) -> float:
        """Seconds since the spawn."""
        return max(trio.current_time() - self._began, 0.0)

    def is_alive(self) -> bool:
        """Whether the leader runs, with any of its threads."""
        return not self._leader.is_over()

    async def wait_exit(self) -> ExitStatus:
        """Wait for the leader's exit."""
        await self._leader.wait_over()
        status = self._leader.status
        kills = self._leaf.oom_kills() if self._leaf is not None and status.signal == "SIGKILL" else None
        return ExitStatus(code=status.code, signal=status.signal, oom=None if kills is None else kills > 0)

    async def signal_leader(self, signal: str) -> None:
        """Send one signal to the leader alone."""
        await trio.lowlevel.checkpoint()
        self._leader.signal(proc.signal_number(signal))

    async def terminate(self, signal: str) -> None:
        """Send the stop signal to the process group; SIGCONT, or a stopped one would never see it."""
        await trio.lowlevel.checkpoint()
        await self._kin.get_to_know()
        self._leader.signal_group(proc.signal_number(signal))
        self._leader.signal_group(SIGCONT)

    def is_gone(self) -> bool:
        """Whether nothing of this life is alive, where a leaf tells."""
        return self._kin.is_gone()

    async def wait_gone(self) -> None:
        """Wait until nothing of this life is alive."""
        await self._kin.wait_gone()

    async def kill(self) -> None:
        """Kill until nothing of this life is alive."""
        await self._kin.kill()

    async def survivors(self) -> tuple[int, ...]:
        """The pids that are alive now."""
        return await self._kin.pids()

    async def members(self) -> frozenset[int]:
        """The pids that belong to this life now."""
        return frozenset(await self._kin.pids())

    async def release(self) -> None:
        """Reap the leader, and remove the leaf."""
        if self._kin.is_unsearched:
            self._launcher.fugitives.suspect(self._order.nonce)
        await self._kin.release()

    async def run(self, command: Sequence[str]) -> CommandResult:
        """Run a command beside this life, in its environment and folder; see the port.

        It is no member of the life while it runs. What it leaves behind is.
        """
        if tuple(command) in self._ending:
            await self._ending[tuple(command)].wait()
        probe = secrets.token_hex(8)
        try:
            pipe = _Pipe()
        except OSError as exc:
            raise SpawnFailedError(f"no pipe for {command[0]}: {exc.strerror}", errno=exc.errno) from exc
        self._commands.add(probe)
        try:
            # A command that hangs in its spawn must hold up neither the others nor the next life.
            spawned = await self._launcher.spawn(
                self._order, command, pipe.lend, owner=f"{self._order.spec.name} {command[0]}", probe=probe
            )
            return await self._attend(spawned, tuple(command), probe, pipe)
        finally:
            pipe.close()
            self._commands.discard(probe)

    async def usage(self) -> Usage:
        """What the tree uses, measured over a moment."""
        began = trio.current_time()
        before, _ = await self._measure()
        await trio.sleep(USAGE_SPAN)
        after, resident = await self._measure()
        spent = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
        return Usage(cpu_percent=round(100 * spent / (trio.current_time() - began), 1), memory_bytes=resident)

    def _is_member(self, marks: Marks) -> bool:
        is_ours = marks.home in self._launcher.homes and marks.nonce == self._order.nonce
        return is_ours and marks.probe not in self._commands

    async def _attend(self, spawned: Spawned, command: tuple[str, ...], probe: str, pipe: _Pipe) -> CommandResult:
        leader = Leader.of(spawned, self._launcher.children)
        kin = Kin(
            leader,
            spawned.leaf,
            sealed=spawned.sealed,
            is_member=lambda marks: marks.probe == probe,
            scans=self._launcher.scans,
        )
        try:
            await pipe.read_until(leader.wait_over)
        finally:
            if leader.is_over():
                # What is in the group or leaf is all that is ended: looking at every process is for
                # commands that were cut off.
                kin.strike()
                with trio.move_on_after(FAREWELL_BOUND, shield=True):  # bounded by that
                    await kin.release()
            else:
                gone = self._ending[command] = trio.Event()
                await self._launcher.put_down(kin, gone)
        return CommandResult(status=leader.status, tail=pipe.tail)

    async def _measure(self) -> tuple[dict[int, float], int]:
        pids = await self._kin.pids()
        return await self._launcher.scans.in_thread(partial(proc.measure, pids))


async def _end_command(kin: Kin, gone: trio.Event) -> None:
    try:
        with trio.move_on_after(COMMAND_KILL_BOUND):
            await kin.kill()
    finally:
        with trio.CancelScope(shield=True):  # bounded by the number of its tries
            await kin.release()
        gone.set()


class _Pipe:
    """Takes the output of a command, and keeps the end of it.

    The writing end is lent to a thread that may come for it after the command was given up, hence
    the lock: what is closed is not lent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._end = b""

    @property
    def tail(self) -> str:
        """The end of what came through."""
        return self._end.decode("utf-8", "replace")

    def lend(self) -> int:
        """A writing end, for somebody who closes it. Safe in any thread."""
        with self._lock:
            if self._is_closed:
                raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
            return os.dup(self._writing)

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._is_closed = True
            os.close(self._writing)
        os.close(self._reading)

    async def read_until(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Read until ``wait`` returns, and then what is still in the pipe."""
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self._read_on)
            await wait()
            tasks.cancel_scope.cancel()
        for _ in range(LEFTOVER_READS):
            if not self._read():
                return

    async def _read_on(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._reading)
            self._read()

    def _read(self) -> bool:
        try:
            part = os.read(self._reading, READ_SIZE)
        except BlockingIOError:
            return False
        self._end = (self._end + part)[-TAIL_BYTES:]
        return bool(part)


def process_of(spec: ComponentSpec) -> ProcessSpec:
    """What the component runs, which is a process."""
    assert isinstance(spec.runs, ProcessSpec)
    return spec.runs


def _shown_path(spec: ComponentSpec, path: str) -> str:
    """The beginning of a PATH. It is concealed first: of a secret that was cut nothing would be found."""
    shown = spec.conceal(path)
    return shown if len(shown) <= SHOWN_PATH else f"{shown[:SHOWN_PATH]}…"


def _age(start_ticks: int | None) -> float:
    """Seconds since a process began, by what the system says of its begin."""
    if start_ticks is None:
        return 0.0
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")
    else:
        return time.time() - start_ticks / 1_000_000
