"""What the engine needs from the world: the protocols that adapters implement, and the few
exceptions they may raise. Nothing else of an adapter is known to the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from stigmerd.core.event import Entry
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.health import Outcome
from stigmerd.core.record import ComponentRecord, Identity
from stigmerd.core.spec import ComponentSpec, Handler, LogPolicy

T = TypeVar("T")


class SpawnFailedError(Exception):
    """No process or container came to be. The message is for the operator: path and reason in words.

    ``errno`` is the system's number where there is one.
    """

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class EngineUnavailableError(Exception):
    """The Docker Engine is absent, hung or not permitted. The message says which, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """What to launch: life number ``life`` of ``spec``, whose environment carries ``nonce``."""

    spec: ComponentSpec
    life: int
    nonce: str


TAIL_BYTES = 16 * 1024
"""Bytes of a command's output that are kept. A message quotes less, but a secret is found only where it is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a hook or exec probe ended. ``tail`` is the last :data:`TAIL_BYTES` of its output, decoded."""

    status: ExitStatus
    tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the tree of a life uses now: per cent of one processor, resident bytes."""

    cpu_percent: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shut:
    """Why a launch has to wait. ``reason`` is ``port`` or ``engine``; ``message`` one sentence."""

    reason: str
    message: str


class Life(Protocol):
    """One process or container of a component, from spawn to reap.

    All waiting methods may be cancelled at any checkpoint and called again. None of them blocks
    the loop, and none raises for a life that is already over.
    """

    @property
    def identity(self) -> Identity:
        """What proves, to this daemon and the next, which process or container this is."""
        ...

    @property
    def note(self) -> str:
        """One sentence about an unusual present (``container is paused``), or ""."""
        ...

    def is_alive(self) -> bool:
        """Whether the leader runs now: False from the instant of its exit, reaped or not."""
        ...

    def age(self) -> float:
        """Seconds since the spawn, also where an earlier daemon spawned it."""
        ...

    async def wait_exit(self) -> ExitStatus:
        """Wait for the leader's exit, and tell its status. The leader is not reaped by this."""
        ...

    async def signal_leader(self, signal: str) -> None:
        """Send one signal, by name, to the leader alone."""
        ...

    async def terminate(self, signal: str) -> None:
        """Send the stop signal to the whole process group, and SIGCONT with it."""
        ...

    def is_gone(self) -> bool:
        """Whether nothing of this life is alive, where that can be told at once; else False."""
        ...

    async def wait_gone(self) -> None:
        """Wait until nothing of this life is alive, descendants included. Kills nothing."""
        ...

    async def kill(self) -> None:
        """SIGKILL everything of this life, again and again, until nothing of it is alive.

        It does not end while something cannot be killed: the caller bounds it.
        """
        ...

    async def survivors(self) -> tuple[int, ...]:
        """The pids of this life that are alive now, by looking."""
        ...

    async def release(self) -> None:
        """Reap the leader and give back what the life held. To be called once nothing is alive."""
        ...

    async def run(self, command: Sequence[str]) -> CommandResult:
        """Run a hook or an exec probe in the environment and folder of this life.

        Cancelling it kills the command's whole process tree. It returns soon all the same: what cannot
        be killed in a moment is killed after that.

        Raises:
            SpawnFailedError: the command did not come to be.
        """
        ...

    async def members(self) -> frozenset[int]:
        """The pids that belong to this life now."""
        ...

    async def usage(self) -> Usage:
        """What the tree uses, for ``status --verbose``. Parts that cannot be told are None."""
        ...


class Launcher(Protocol):
    """Makes lives. One for processes, one for containers."""

    async def check_gate(self, spec: ComponentSpec) -> Shut | None:
        """Look whether a launch could succeed now: strangers on ``ports``, engine, image to pull."""
        ...

    def begin(self, order: LaunchOrder) -> None:
        """Begin what of a launch can be begun at once. Never raises and never blocks.

        ``launch`` of the same order follows, and tells what became of it.
        """
        ...

    async def launch(self, order: LaunchOrder) -> Life:
        """Bring a life into being.

        The caller bounds it by a cancel scope. What comes to be after it was cancelled is ended
        by the launcher, without anybody asking.

        Raises:
            SpawnFailedError: nothing came to be; a restart policy decides what follows.
            EngineUnavailableError: the Docker Engine cannot be asked; wait for it.
        """
        ...

    async def adopt(self, order: LaunchOrder, identity: Identity) -> Life | None:
        """The life that ``identity`` names, if it is provably that one; None if it is gone or unprovable.

        One that is over, and whose end nobody has seen to yet, is there to tell how it ended.
        """
        ...


class Probe(Protocol):
    """One probe handler, bound to one life."""

    async def attempt(self) -> Outcome:
        """Look once. The caller bounds it by a hard cancel scope; a failure is an Outcome, not an exception."""
        ...


class ProbeBinder(Protocol):
    """Makes probes."""

    def __call__(self, handler: Handler, life: Life, spec: ComponentSpec) -> Probe:
        """The probe of ``handler`` for ``life``."""
        ...


class PortWatch(Protocol):
    """Tells who listens where."""

    async def strangers(self, ports: Sequence[int], ours: frozenset[int]) -> str | None:
        """One phrase, ``port 7234 is taken by pid 12 (nginx)``, if a process outside ``ours`` listens, else None."""
        ...


class Logs(Protocol):
    """The components' log files, as far as the engine writes or rules them."""

    def note(self, component: str, text: str) -> None:
        """Write one line of the daemon into a component's log, in one write, on a line of its own.

        Never raises: what cannot be written is a problem to show, not one to die of.
        """
        ...

    def rule(self, component: str, policy: LogPolicy) -> None:
        """Keep this component's log within ``policy`` from now on."""
        ...

    def path(self, component: str) -> str:
        """The absolute path of a component's log."""
        ...


class EventStore(Protocol):
    """The event history on disk."""

    def append(self, entry: Entry) -> None:
        """Put one entry into the file, in one write, before this returns. Never raises.

        What a full disk refuses is kept in memory, in order, and written when it can be.
        """
        ...

    @property
    def last_seq(self) -> int:
        """The highest number used so far, 0 for an empty history."""
        ...

    def read_since(self, seq: int) -> list[Entry]:
        """The kept entries with a higher number, oldest first."""
        ...


class StateStore(Protocol):
    """The state on disk."""

    def put(self, record: ComponentRecord) -> None:
        """Keep the newest record of a component: the daemon may die right after. Never raises."""
        ...

    def forget(self, component: str) -> None:
        """Drop the record of a component that was removed from the configuration. Never raises."""
        ...

    def last_life(self, component: str) -> int:
        """The number of a component's last life, removed since or not; 0 if it never had one."""
        ...


class Look(Protocol):
    """Looks at what may be large, or slow to answer, while everything else goes on."""

    async def __call__(self, look: Callable[[], T]) -> T:
        """What the look finds."""
        ...


class Clock(Protocol):
    """Instants that mean something outside this process."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def boot(self) -> float:
        """Seconds of CLOCK_BOOTTIME: goes on through suspend and across daemons."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the engine is given."""

    processes: Launcher
    containers: Launcher
    bind_probe: ProbeBinder
    ports: PortWatch
    logs: Logs
    events: EventStore
    state: StateStore
    look: Look
    clock: Clock
    boot_id: str
