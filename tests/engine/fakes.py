"""A world for the engine that costs no time: lives, files and clocks under trio's MockClock.

The fake launcher and life pass the contract suite of the real ones (tests/launcher_contract.py).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from stigmerd.core.event import Entry
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.health import Outcome
from stigmerd.core.record import ComponentRecord, Identity
from stigmerd.core.spec import ComponentSpec, Handler, LogPolicy, ProcessSpec
from stigmerd.engine.ports import (
    CommandResult,
    LaunchOrder,
    Life,
    Probe,
    Shut,
    SpawnFailedError,
    Usage,
    World,
)

BOOT_ID = "00000000-0000-0000-0000-00000000b007"
T = TypeVar("T")

EPOCH = 1_769_054_400.0


@dataclass
class Program:
    """How a component's lives behave.

    ``lives_for`` seconds until it exits by itself with ``status`` (None: never). ``dies_after``
    seconds from the stop signal to the exit (None: it ignores the signal). ``spawn_takes`` and
    ``gate_takes`` seconds until it is spawned, and until its ports were looked at.
    ``child_outlives`` seconds that a descendant goes on after the leader's exit. ``kill_takes`` seconds;
    ``look_takes`` seconds until the survivors are known, ``hook_takes`` until a command beside it has ended.
    """

    lives_for: float | None = None
    status: ExitStatus = field(default_factory=lambda: ExitStatus(code=1))
    dies_after: float | None = 0.0
    spawn_takes: float = 0.0
    child_outlives: float | None = 0.0
    kill_takes: float = 0.0
    look_takes: float = 0.0
    hook_takes: float = 0.0
    unkillable: bool = False
    spawn_error: str | None = None
    gate_takes: float = 0.0
    shut: Shut | None = None
    bug: Exception | None = None
    stop_bugs: list[Exception] = field(default_factory=list)
    """What the stop signal raises, once each."""


class FakeLife:
    """A process that exists on trio's clock only."""

    def __init__(self, program: Program, identity: Identity) -> None:
        self._program = program
        self._identity = identity
        self._born = trio.current_time()
        self._over = trio.Event()
        self._gone = trio.Event()
        self._status: ExitStatus | None = None
        self.signals: list[str] = []
        self.ran: list[tuple[str, ...]] = []
        self.released = False
        if program.lives_for is not None:
            trio.lowlevel.spawn_system_task(self._expire, program.lives_for, program.status)

    async def _expire(self, after: float, status: ExitStatus) -> None:
        await trio.sleep(after)
        self.exit(status)

    def exit(self, status: ExitStatus) -> None:
        """Let the leader exit, as from outside."""
        if self._status is None:
            self._status = status
            self._over.set()
            if self._program.child_outlives is not None:
                trio.lowlevel.spawn_system_task(self._children_end, self._program.child_outlives)

    async def _children_end(self, after: float) -> None:
        await trio.sleep(after)
        self._gone.set()

    def free(self) -> None:
        """What could not be killed dies at last."""
        self._program.unkillable = False
        self.exit(ExitStatus(signal="SIGKILL"))
        self._gone.set()

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def note(self) -> str:
        return ""

    def age(self) -> float:
        return trio.current_time() - self._born

    def is_alive(self) -> bool:
        return self._status is None

    async def wait_exit(self) -> ExitStatus:
        await self._over.wait()
        assert self._status is not None
        return self._status

    async def signal_leader(self, signal: str) -> None:
        await trio.lowlevel.checkpoint()
        self.signals.append(signal)

    async def terminate(self, signal: str) -> None:
        await trio.lowlevel.checkpoint()
        if self._program.stop_bugs:
            raise self._program.stop_bugs.pop()
        self.signals.append(signal)
        if self._program.dies_after is not None:
            trio.lowlevel.spawn_system_task(self._expire, self._program.dies_after, ExitStatus(signal=signal))

    def is_gone(self) -> bool:
        return self._status is not None and (self._program.child_outlives == 0.0 or self._gone.is_set())

    async def wait_gone(self) -> None:
        await self._gone.wait()

    async def kill(self) -> None:
        if self._program.unkillable:
            await self._gone.wait()
        await trio.sleep(self._program.kill_takes)
        self.exit(ExitStatus(signal="SIGKILL"))
        self._gone.set()

    async def survivors(self) -> tuple[int, ...]:
        await trio.sleep(self._program.look_takes)
        return () if self._gone.is_set() else (self._identity.pid or 0,)

    async def release(self) -> None:
        await trio.lowlevel.checkpoint()
        self.released = True

    async def run(self, command: Sequence[str]) -> CommandResult:
        await trio.lowlevel.checkpoint()
        self.ran.append(tuple(command))
        await trio.sleep(self._program.hook_takes)
        return CommandResult(status=ExitStatus(code=0), tail="")

    async def members(self) -> frozenset[int]:
        await trio.lowlevel.checkpoint()
        return frozenset() if self._gone.is_set() else frozenset({self._identity.pid or 0})

    async def usage(self) -> Usage:
        await trio.lowlevel.checkpoint()
        return Usage(cpu_percent=None, memory_bytes=None)


class FakeLauncher:
    """Launches what :attr:`programs` says, by component; what it says not, lives until stopped."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = defaultdict(Program)
        self.lives: dict[str, list[FakeLife]] = defaultdict(list)
        self.launched: list[tuple[str, float]] = []
        self.adoptable: dict[str, FakeLife] = {}
        self.on_begin: Callable[[LaunchOrder], None] = lambda order: None
        self._pids = itertools.count(1000)

    def last(self, name: str) -> FakeLife:
        return self.lives[name][-1]

    def starts(self, name: str) -> list[float]:
        return [at for launched, at in self.launched if launched == name]

    async def check_gate(self, spec: ComponentSpec) -> Shut | None:
        await trio.sleep(self.programs[spec.name].gate_takes)
        return self.programs[spec.name].shut

    def begin(self, order: LaunchOrder) -> None:
        self.on_begin(order)

    async def launch(self, order: LaunchOrder) -> Life:
        name = order.spec.name
        program = self.programs[name]
        self.launched.append((name, trio.current_time()))
        if program.bug is not None:
            raise program.bug
        await trio.sleep(program.spawn_takes)
        if program.spawn_error is not None:
            raise SpawnFailedError(program.spawn_error, errno=2)
        assert all(not life.is_alive() for life in self.lives[name]), "two lives at once"
        life = FakeLife(program, Identity(nonce=order.nonce, boot_id=BOOT_ID, pid=next(self._pids), start_ticks=1))
        self.lives[name].append(life)
        return life

    async def adopt(self, order: LaunchOrder, identity: Identity) -> Life | None:
        await trio.lowlevel.checkpoint()
        return self.adoptable.get(identity.nonce)


class FakeProbe:
    """A probe whose answer the test changes while it runs."""

    def __init__(self, answer: Callable[[], Outcome], takes: float) -> None:
        self._answer = answer
        self._takes = takes

    async def attempt(self) -> Outcome:
        await trio.sleep(self._takes)
        return self._answer()


class FakeProbes:
    """Binds every handler to one answer per component; passing where the test says nothing."""

    def __init__(self) -> None:
        self.answers: dict[str, Outcome] = defaultdict(lambda: Outcome(passed=True))
        self.takes: dict[str, float] = defaultdict(float)

    def __call__(self, handler: Handler, life: Life, spec: ComponentSpec) -> Probe:
        return FakeProbe(lambda: self.answers[spec.name], self.takes[spec.name])


class FakePorts:
    """No stranger anywhere, unless the test says so."""

    def __init__(self) -> None:
        self.stranger: str | None = None
        self.takes = 0.0

    async def strangers(self, ports: Sequence[int], ours: frozenset[int]) -> str | None:
        await trio.sleep(self.takes)
        return self.stranger


class FakeLogs:
    """Log files in memory: the daemon's lines, by component."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.policies: dict[str, LogPolicy] = {}

    def note(self, component: str, text: str) -> None:
        self.lines[component].append(text)

    def rule(self, component: str, policy: LogPolicy) -> None:
        self.policies[component] = policy

    def path(self, component: str) -> str:
        return f"/logs/{component}.log"


class FakeEvents:
    """The event history in memory."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def append(self, entry: Entry) -> None:
        assert entry.seq == self.last_seq + 1
        self.entries.append(entry)

    @property
    def last_seq(self) -> int:
        return self.entries[-1].seq if self.entries else 0

    def read_since(self, seq: int) -> list[Entry]:
        return [entry for entry in self.entries if entry.seq > seq]

    def of(self, name: str) -> list[str]:
        """The events of one component, in order, by name."""
        return [entry.event for entry in self.entries if entry.component == name]


class FakeState:
    """The state in memory: the newest record of each component."""

    def __init__(self) -> None:
        self.records: dict[str, ComponentRecord] = {}
        self.lives: dict[str, int] = {}

    def put(self, record: ComponentRecord) -> None:
        self.records[record.name] = record
        self.lives[record.name] = record.life

    def forget(self, component: str) -> None:
        self.records.pop(component, None)

    def last_life(self, component: str) -> int:
        return self.lives.get(component, 0)


async def look_at_once(look: Callable[[], T]) -> T:
    """Look without a thread: none would fit a clock that jumps."""
    await trio.lowlevel.checkpoint()
    return look()


class FakeClock:
    """Wall and boot time that run with trio's clock; ``asleep`` is what the host slept through."""

    def __init__(self) -> None:
        self.asleep = 0.0

    def wall(self) -> float:
        return EPOCH + trio.current_time()

    def boot(self) -> float:
        return trio.current_time() + self.asleep


class FakeWorld:
    """Everything of the above, and the engine's view of it."""

    def __init__(self) -> None:
        self.launcher = FakeLauncher()
        self.probes = FakeProbes()
        self.ports = FakePorts()
        self.logs = FakeLogs()
        self.events = FakeEvents()
        self.state = FakeState()
        self.clock = FakeClock()
        self.world = World(
            processes=self.launcher,
            containers=self.launcher,
            bind_probe=self.probes,
            ports=self.ports,
            logs=self.logs,
            events=self.events,
            state=self.state,
            look=look_at_once,
            clock=self.clock,
            boot_id=BOOT_ID,
        )


def component(name: str = "web", **changes: object) -> ComponentSpec:
    """A component that runs a program, with anything about it changed."""
    runs = ProcessSpec(argv=(name,), cwd="/")
    return ComponentSpec(name=name, display_command=(name,), **{"runs": runs, **changes})  # type: ignore[arg-type]
