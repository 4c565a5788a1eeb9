"""The daemon: one process that puts the parts together, for one home. It decides nothing itself.

In order: the home is taken, the configuration read, the last daemon's state loaded, what nobody
claims ended, what is claimed adopted, the rest started, and operators answered until the end.
"""

from __future__ import annotations

import logging
import os
import signal as signals
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from stigmerd import __version__
from stigmerd.adapters.clock import SystemClock
from stigmerd.adapters.containers.on_demand import ContainersOnDemand
from stigmerd.adapters.disk.home import HomeError
from stigmerd.adapters.disk.output import LogFiles
from stigmerd.adapters.disk.store import EventFiles, StateFiles
from stigmerd.adapters.ports import PortWatch
from stigmerd.adapters.probes import ProbeFactory
from stigmerd.adapters.processes import identity
from stigmerd.adapters.processes.platform import Platform
from stigmerd.adapters.processes.process import ProcessLauncher
from stigmerd.adapters.processes.reserve import describe_shortage
from stigmerd.config.problems import ConfigError
from stigmerd.control.handlers import Hello
from stigmerd.control.server import ControlServer, ControlSocketError
from stigmerd.core.instant import rfc3339
from stigmerd.daemon.chores import Chores
from stigmerd.daemon.configuration import Configuration
from stigmerd.daemon.garbage import set_survivors_aside
from stigmerd.daemon.legacy import Legacy
from stigmerd.daemon.log import FileHandler, log_entry
from stigmerd.daemon.lookup import LookAside
from stigmerd.daemon.operations import DaemonOperations
from stigmerd.daemon.own_process import HELD_SIGNALS, IDLE_SIGNALS, heed_signals, hold_signals
from stigmerd.daemon.reexec import become_next_program
from stigmerd.daemon.report import Report
from stigmerd.daemon.start import Start, StartError
from stigmerd.daemon.succession import Succession
from stigmerd.engine.journal import Journal
from stigmerd.engine.operations import RefusedError
from stigmerd.engine.ports import World
from stigmerd.engine.supervisor import Supervisor

if TYPE_CHECKING:
    from stigmerd.adapters.containers.container import ContainerLauncher

CHECKPOINT_PERIOD = 1.0
"""Seconds between two writes of the state: at most one fsync a second."""

KEEPING_BOUND = 0.5
"""Seconds that the end waits for a look at the lock, which takes no millisecond on a disk that answers."""

STALE_PERIOD = 1.0
"""Seconds between two looks whether the configuration was changed."""

ANSWER_BOUND = 1.0
"""Seconds that the last answers have to reach their operators."""

REMOVAL_BOUND = 3.0
"""Seconds at the end for the containers that are over and still being removed: an engine on a busy disk takes
longer than a stop waits for it, and what is left would keep its name."""

PROOF_BOUND = 1.0
"""Seconds in which what the last daemon left has to be found alive or dead, before anybody is answered."""

LOG_PAUSE = 0.01
"""Seconds from an event to the line about it: a restart does not wait for lines about it."""

LOG_LINES = 20
"""Lines about events that are written in one go."""

SAME_SIGNAL = 0.1
"""Seconds in which two signals are one request: timeout(1) signals its child and its group."""

log = logging.getLogger("stigmerd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a daemon is made of, once it knows its configuration. None of it runs by itself."""

    configuration: Configuration
    processes: ProcessLauncher
    containers: ContainersOnDemand
    events: EventFiles
    supervisor: Supervisor
    legacy: Legacy
    operations: DaemonOperations


class Daemon:
    """Supervises for one home, from start to end."""

    def __init__(self, start: Start, logs: LogFiles, own_log: FileHandler) -> None:
        self._start = start
        self._logs = logs
        self._own_log = own_log
        self._clock = SystemClock()
        self._began = trio.current_time()
        self._began_at = rfc3339(self._clock.wall())
        self._state = StateFiles(start.home)
        self._succession = Succession(home=start.home, left=self._state.load(), boot_id=identity.boot_id())
        self._chores = Chores()
        self._lock_problem: str | None = None
        self._keeping = threading.Lock()
        self._is_over = False
        """Whether the lock is to be left as it is, to the end or to the next program; a chore may be late."""

    async def run(self) -> int:
        """Supervise until asked to end, and return the exit code.

        Raises:
            StartError: nothing was started or touched.
        """
        await self._succession.refuse_second()
        with self._make_server() as server:
            with trio.open_signal_receiver(*HELD_SIGNALS) as arrivals:
                heed_signals()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(set_survivors_aside)
                    parts = await self._assemble(nursery)
                    await self._set_going(parts, nursery)
                    nursery.start_soon(server.serve, parts.operations)
                    await _wait_over(parts, server, Heed(arrivals, parts, nursery))
                    nursery.cancel_scope.cancel()  # ends what waits, and no component
                ending = parts.operations.ending
                if ending.becomes_next:
                    hold_signals()  # before the receiver gives back what nobody has heeded
            self._leave_lock()
            if ending.becomes_next:
                await parts.legacy.save(clean=False)
                await _wait_given_back()
                become_next_program(self._start, server.listener)
            await parts.processes.end_orphans()
            if not ending.survivors:
                parts.legacy.remember(clean=True)  # first: of a daemon that dies here, nothing goes on
                parts.supervisor.remember_rest()
            await parts.legacy.save(clean=not ending.survivors)
            await self._chores.settle_logs(self._logs)
            parts.processes.close()
        return 1 if ending.survivors else 0

    # What it is made of.

    def _make_server(self) -> ControlServer:
        hello = Hello(version=__version__, pid=os.getpid())
        run_dir, listener = self._start.home.run, self._start.listener
        try:
            return ControlServer(run_dir, hello, on_problem=_log_problem, listener=listener)
        except ControlSocketError as exc:
            raise StartError(str(exc)) from exc

    async def _assemble(self, nursery: trio.Nursery) -> Parts:
        start, succession = self._start, self._succession
        ports = PortWatch()
        containers = self._make_containers(nursery, ports)
        configuration = Configuration(start, start.config or succession.config, containers.has_image)
        await self._read(configuration)
        specs = configuration.stack.components
        processes = self._make_processes(ports)
        events = EventFiles(start.home, floor=succession.left.last_seq)
        world = World(
            processes=processes,
            containers=containers,
            bind_probe=ProbeFactory(),
            ports=ports,
            logs=self._logs,
            events=events,
            state=self._state,
            look=LookAside(),
            clock=self._clock,
            boot_id=succession.boot_id,
        )
        supervisor = Supervisor(specs, world, succession.restore(specs, self._logs, self._clock))
        legacy = Legacy(start, configuration, self._state, events, self._began_at)
        report = Report(
            supervisor=supervisor,
            configuration=configuration,
            clock=self._clock,
            home=start.home.path,
            began=self._began,
            began_at=self._began_at,
            problems=partial(self._problems, configuration, legacy, processes),
        )
        return Parts(
            configuration=configuration,
            processes=processes,
            containers=containers,
            events=events,
            supervisor=supervisor,
            legacy=legacy,
            operations=DaemonOperations(start, supervisor, configuration, report, legacy.remember),
        )

    async def _read(self, configuration: Configuration) -> None:
        try:
            stack = await configuration.read(must_exist=False)
        except ConfigError as exc:
            raise StartError(str(exc), code=2) from exc
        self._succession.refuse_other_config(stack.source, is_given=self._start.config is not None)
        configuration.put_in_force(stack)

    def _make_containers(self, nursery: trio.Nursery, ports: PortWatch) -> ContainersOnDemand:
        def make() -> ContainerLauncher:
            # Loaded only where a component is a container.
            from stigmerd.adapters.containers.container import ContainerLauncher
            from stigmerd.adapters.containers.engine import DockerEngine

            home, environment = self._start.home, self._start.environment
            return ContainerLauncher(
                DockerEngine(environment, home=home.path),
                boot_id=self._succession.boot_id,
                environment=environment,
                open_log=self._logs.open_for_child,
                places=Path(home.state, "streams"),
                port_watch=ports,
            )

        return ContainersOnDemand(nursery, make)

    def _make_processes(self, ports: PortWatch) -> ProcessLauncher:
        home = self._start.home.path
        return ProcessLauncher(
            home=home,
            environment=self._start.environment,
            platform=Platform.detect(home),
            open_log=self._logs.open_for_child,
            port_watch=ports,
            children_nofile=self._start.children_nofile,
        )

    def _problems(
        self, configuration: Configuration, legacy: Legacy, processes: ProcessLauncher
    ) -> Iterator[str | None]:
        yield from self._succession.left.problems
        yield self._lock_problem
        yield configuration.problem
        yield from legacy.problems
        yield describe_shortage(self._start.lock)
        yield from self._chores.problems
        yield from processes.problems
        yield from self._logs.problems

    # What runs.

    async def _set_going(self, parts: Parts, nursery: trio.Nursery) -> None:
        """Begin to supervise. Returns once of what the last daemon left it is known whether it goes on."""
        succession, supervisor = self._succession, parts.supervisor
        specs, journal = supervisor.specs, supervisor.journal
        await nursery.start(_log_events, journal)
        journal.record("daemon_started", pid=os.getpid(), version=__version__)
        for problem in succession.left.problems:
            log.warning("%s", problem)
        # First of all what is held back: also where threads are short, strays have to be looked for.
        await nursery.start(parts.processes.serve)
        await succession.end_strays(specs, parts.processes, journal)
        succession.tell_lost_exits(specs, parts.events, journal, self._state, self._logs)
        nursery.start_soon(self._end_stray_containers, parts)
        await nursery.start(supervisor.run)
        # From here on the records of the components are this daemon's: whatever they say is to go on.
        parts.legacy.remember()
        nursery.start_soon(self._chores.keep_logs_small, self._logs)
        nursery.start_soon(self._chores.repeat, partial(self._checkpoint, parts.legacy), CHECKPOINT_PERIOD)
        nursery.start_soon(self._chores.repeat, parts.configuration.look, STALE_PERIOD)
        nursery.start_soon(succession.begin, supervisor)
        with trio.move_on_after(PROOF_BOUND):
            await supervisor.wait_proven()

    async def _end_stray_containers(self, parts: Parts) -> None:
        """Beside everything else: an engine that is absent or hung must not hold up the start."""
        succession, supervisor = self._succession, parts.supervisor
        await succession.end_stray_containers(supervisor.specs, parts.containers, supervisor.journal)
        succession.forget_removed(supervisor.specs, self._state)

    def _checkpoint(self, legacy: Legacy) -> None:
        legacy.checkpoint()
        self._own_log.reopen()
        self._keep_lock()

    def _leave_lock(self) -> None:
        """Let no chore touch the lock any more. One that hangs with the disk is not waited for."""
        is_idle = self._keeping.acquire(timeout=KEEPING_BOUND)
        self._is_over = True
        if is_idle:
            self._keeping.release()

    def _keep_lock(self) -> None:
        try:
            with self._keeping:
                if not self._is_over:
                    self._start.home.keep_lock(self._start.lock)
        except HomeError as exc:
            if self._lock_problem is None:
                log.error("%s", exc)
            self._lock_problem = str(exc)
        else:
            self._lock_problem = None


class Heed:
    """Does in ``nursery`` what signals ask for: an orderly end, a faster one, a reload."""

    def __init__(self, arrivals: AsyncIterator[int], parts: Parts, nursery: trio.Nursery) -> None:
        self._arrivals = arrivals
        self._parts = parts
        self._nursery = nursery
        self._asked_at: float | None = None

    async def serve(self) -> None:
        """Heed signals until cancelled. What was begun goes on, and what arrives is there for the next call."""
        async for number in self._arrivals:
            self._do(number)

    def _do(self, number: int) -> None:
        operations = self._parts.operations
        if number == signals.SIGHUP:
            self._nursery.start_soon(_reload, operations)
        elif number in IDLE_SIGNALS:
            log.info("%s means nothing here and is ignored", signals.Signals(number).name)
        elif self._asked_at is None:  # though an operator may have asked already: only the second is impatient
            self._asked_at = trio.current_time()
            operations.expect_shutdown()
            self._nursery.start_soon(operations.shutdown)
        elif trio.current_time() - self._asked_at > SAME_SIGNAL:
            self._nursery.start_soon(self._parts.supervisor.hurry)


async def _wait_over(parts: Parts, server: ControlServer, heed: Heed) -> None:
    """Wait until there is nothing left to do but to end, or to go on as the next program.

    Once this returns no signal is heeded any more: one that was taken in before is carried out first.
    """
    while not parts.operations.is_over:
        async with trio.open_nursery() as heeding:
            heeding.start_soon(heed.serve)
            await parts.operations.wait_end()
            with trio.move_on_after(ANSWER_BOUND):
                await server.wait_answered()
            with trio.move_on_after(REMOVAL_BOUND):
                await parts.containers.wait_removed()
            heeding.cancel_scope.cancel()


async def _wait_given_back() -> None:
    """Wait until signals that were on their way to the receiver when it was closed are signals again."""
    passed = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(passed.set)
    await passed.wait()


async def _reload(operations: DaemonOperations) -> None:
    try:
        await operations.reload_in_turn()
    except RefusedError as exc:
        log.error("%s", exc)


async def _log_events(journal: Journal, task_status: trio.TaskStatus[None]) -> None:
    with journal.watch() as feed:
        task_status.started()
        try:
            while True:
                await feed.wait_arrival()
                await trio.sleep(LOG_PAUSE)
                for entry in feed.take(LOG_LINES):
                    log_entry(entry)
        finally:
            for entry in feed.take_rest():
                log_entry(entry)


def _log_problem(message: str, error: BaseException | None = None) -> None:
    log.warning("%s", message, exc_info=error)
