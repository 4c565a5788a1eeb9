"""The daemon: one process that puts the parts together, for one home. It decides nothing itself.

In order: the home is taken, the configuration read, the last daemon's state loaded, what nobody
claims ended, what is claimed adopted, the rest started, and operators answered until the end.
"""

from __future__ import annotations

import logging
import os
import signal as signals
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from stigmerd import __version__
from stigmerd.adapters import identity, probes
from stigmerd.adapters.containers import ContainersOnDemand
from stigmerd.adapters.output import LogFiles, tail_texts
from stigmerd.adapters.platform import Platform
from stigmerd.adapters.ports import PortWatch
from stigmerd.adapters.process import ProcessLauncher
from stigmerd.adapters.reserve import describe_shortage
from stigmerd.adapters.spawn import HELD_SIGNALS, heed_signals
from stigmerd.adapters.store import EventFiles, HomeTakenError, StateFiles
from stigmerd.config.load import is_stale, load_stack
from stigmerd.config.presets import AGENT_IMAGE
from stigmerd.config.problems import ConfigError
from stigmerd.control.handlers import Hello
from stigmerd.control.protocol import PROTOCOL
from stigmerd.control.server import ControlServer, ControlSocketError
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.explain import ExplainReport, build_report
from stigmerd.core.lifecycle import Phase
from stigmerd.core.order import Change
from stigmerd.core.record import DaemonRecord
from stigmerd.core.spec import ComponentSpec, StackSpec
from stigmerd.core.status import (
    ComponentDocument,
    DaemonDocument,
    StatusDocument,
    is_stack_healthy,
    to_plain,
)
from stigmerd.daemon_log import FileHandler, log_entry, set_level
from stigmerd.engine.board import View
from stigmerd.engine.component import Component
from stigmerd.engine.journal import rfc3339
from stigmerd.engine.operations import Answer, EventFeed, Refusal, RefusedError
from stigmerd.engine.ports import Life, World
from stigmerd.engine.restore import DIED_IN_SPAWN, is_to_return, restored_view, untold_end
from stigmerd.engine.supervisor import Supervisor
from stigmerd.engine.telling import Teller
from stigmerd.reexec import ask_next_program, become_next_program
from stigmerd.start import Start, StartError

ROTATION_PERIOD = 0.25
"""Seconds between two looks at the size of the logs."""

ROTATIONS_AT_ONCE = 4
"""Logs that are rotated at the same time: the rest waits, as it would for the disk."""

CHECKPOINT_PERIOD = 1.0
"""Seconds between two writes of the state: at most one fsync a second."""

STALE_PERIOD = 1.0
"""Seconds between two looks whether the configuration was changed."""

CHORE_PAUSE = 1.0
"""Seconds for which a chore waits more where a thread, memory or a descriptor is lacking."""

SAVE_BOUND = 5.0
"""Seconds for the last write of the state: a disk that hangs must not keep the daemon from ending."""

LOAD_BOUND = 10.0
"""Seconds for reading the configuration, which may lie on a file system that hangs."""

ANSWER_BOUND = 1.0
"""Seconds that the last answers have to reach their operators."""

REMOVAL_BOUND = 3.0
"""Seconds at the end for the containers that are over and still being removed: an engine on a busy disk takes
longer than a stop waits for it, and what is left would keep its name."""

ROTATION_BOUND = 5.0
"""Seconds that an ordered end waits for the logs to be whole."""

END_LOOKS, END_PAUSE = 20, 0.05
"""How often, and seconds apart, to look for the end of a daemon that is killed and has lost its lock already."""

USAGE_BOUND = 1.0
"""Seconds for looking at what a component uses."""

PROOF_BOUND = 1.0
"""Seconds in which what the last daemon left has to be found alive or dead, before anybody is answered."""

LOG_PAUSE = 0.01
"""Seconds from an event to the line about it: a restart does not wait for lines about it."""

LOG_LINES = 20
"""Lines about events that are written in one go."""

SAME_SIGNAL = 0.1
"""Seconds in which two signals are one request: timeout(1) signals its child and its group."""

FORBIDDEN_SIGNALS = frozenset({"SIGKILL", "SIGSTOP"})

T = TypeVar("T")

log = logging.getLogger("stigmerd")


class SystemClock:
    """The instants that mean something outside this process."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def boot(self) -> float:
        """Seconds of CLOCK_BOOTTIME; where there is none, of the clock that comes nearest."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Daemon:
    """Answers the control channel for one home, over one supervisor."""

    def __init__(self, start: Start, logs: LogFiles, own_log: FileHandler) -> None:
        self._start = start
        self._logs = logs
        self._own_log = own_log
        self._clock = SystemClock()
        self._began = trio.current_time()
        self._began_at = rfc3339(self._clock.wall())
        self._state = StateFiles(start.home)
        self._loaded = self._state.load()
        self._config = start.config or self._remembered_config()
        self._stack = StackSpec()
        self._is_stale = False
        self._reload_problem = ""
        self._reloading = False
        self._loading = trio.CapacityLimiter(1)
        self._lacks: dict[trio.CapacityLimiter, str] = {}
        """By the limiter of a chore: what keeps it from being done."""
        self._end = trio.Event()
        self._shutdown_begun = False
        self._reexec = False
        self._survivors: tuple[int, ...] = ()

    # From start to end.

    async def run(self) -> int:
        """Supervise until asked to end, and return the exit code.

        Raises:
            StartError: nothing was started or touched.
        """
        await self._refuse_second()
        with trio.open_signal_receiver(*HELD_SIGNALS) as arrivals, self._make_server() as server:
            heed_signals()
            async with trio.open_nursery() as nursery:
                await self._set_up(nursery)
                with trio.move_on_after(PROOF_BOUND):
                    await self._supervisor.wait_proven()
                nursery.start_soon(server.serve, self)
                nursery.start_soon(self._heed, arrivals)
                await self._end.wait()
                with trio.move_on_after(ANSWER_BOUND):
                    await server.wait_answered()
                with trio.move_on_after(REMOVAL_BOUND):
                    await self._containers.wait_removed()
                nursery.cancel_scope.cancel()  # ends what waits, and no component
            if self._reexec:
                await self._save(clean=False)
                become_next_program(self._start, server.listener)
            await self._save(clean=not self._survivors)
            await self._settle_logs()
            self._processes.close()
        return 1 if self._survivors else 0

    def _make_server(self) -> ControlServer:
        hello = Hello(version=__version__, pid=os.getpid())
        run_dir, listener = self._start.home.run, self._start.listener
        try:
            return ControlServer(run_dir, hello, on_problem=_log_problem, listener=listener)
        except ControlSocketError as exc:
            raise StartError(str(exc)) from exc

    async def _set_up(self, nursery: trio.Nursery) -> None:
        start, home = self._start, self._start.home
        boot_id = identity.boot_id()
        self._containers = ContainersOnDemand(
            nursery,
            home=home.path,
            boot_id=boot_id,
            environment=start.environment,
            open_log=self._logs.open_for_child,
            places=Path(home.state, "streams"),
        )
        self._stack = await self._load(self._config, must_exist=False)
        set_level(start.log_level or self._stack.daemon.log_level)
        crashed = self._is_continuing(boot_id)
        self._refuse_other_config(crashed)
        probes.preload(self._stack.components.values())
        port_watch = PortWatch()
        self._processes = ProcessLauncher(
            home=home.path,
            environment=start.environment,
            platform=Platform.detect(home.path),
            open_log=self._logs.open_for_child,
            port_watch=port_watch,
            children_nofile=start.children_nofile,
        )
        world = World(
            processes=self._processes,
            containers=self._containers,
            bind_probe=probes.ProbeFactory(),
            ports=port_watch,
            logs=self._logs,
            events=(events := EventFiles(home, floor=self._loaded.last_seq)),
            state=self._state,
            clock=self._clock,
            boot_id=boot_id,
        )
        self._events = events
        self._supervisor = Supervisor(self._stack.components, world, self._left_by_the_dead() if crashed else {})
        await nursery.start(self._log_events)
        self._supervisor.journal.record("daemon_started", pid=os.getpid(), version=__version__)
        for problem in self._loaded.problems:
            log.warning("%s", problem)
        await self._end_strays(crashed)
        self._tell_lost_exits(crashed)
        nursery.start_soon(self._processes.serve)
        await nursery.start(self._supervisor.run)
        # From here on the records of the components are this daemon's: whatever they say is to go on.
        self._remember(clean=False)
        nursery.start_soon(self._keep_logs_small)
        nursery.start_soon(self._repeat, self._checkpoint, CHECKPOINT_PERIOD)
        nursery.start_soon(self._repeat, self._look_at_files, STALE_PERIOD)
        nursery.start_soon(self._begin, crashed)

    def _is_continuing(self, boot_id: str) -> bool:
        """Whether the last daemon died, or replaced itself, on this boot, without an ordered stop."""
        last = self._loaded.daemon
        return last is not None and last.boot_id == boot_id and not last.clean

    def _remembered_config(self) -> str | None:
        """The file that a daemon which died had read: were it gone, another stack would end that one's lives."""
        last = self._loaded.daemon
        return last.source if last is not None and not last.clean else None

    async def _refuse_second(self) -> None:
        """Look for the last daemon itself: somebody may have removed the lock that it holds."""
        last = self._loaded.daemon
        if last is None or not self._is_continuing(identity.boot_id()) or last.pid == os.getpid():
            return
        for _ in range(END_LOOKS):
            if not _is_running(last):
                return
            await trio.sleep(END_PAUSE)
        raise StartError(str(HomeTakenError(self._start.home.path, last.pid)))

    def _refuse_other_config(self, crashed: bool) -> None:
        last = self._loaded.daemon
        if not crashed or last is None or self._stack.source == last.source:
            return
        alive = [r.name for r in self._loaded.components.values() if r.identity and identity.is_alive(r.identity)]
        if alive and self._start.config is not None:
            raise StartError(
                f"of another configuration ({last.source or 'the reference stack'}) these still run: "
                f"{', '.join(alive)}. End them with `stigmer server stop` first, or start without --config"
            )

    def _left_by_the_dead(self) -> dict[str, View]:
        """Every known component as the daemon that died left it."""
        now, boot = trio.current_time(), self._clock.boot()
        specs, known = self._stack.components, self._loaded.components
        return {
            name: restored_view(record, specs[name], self._logs.path(name), now, boot)
            for name, record in known.items()
            if name in specs
        }

    def _tell_lost_exits(self, crashed: bool) -> None:
        """Account for lives that nobody adopts: they ended in a reboot, by an operator's hand, or as strays."""
        known = self._loaded.components.values()
        records = [r for r in known if r.identity and not (crashed and r.name in self._stack.components)]
        is_lost = self._loaded.daemon is None and self._events.last_seq > 0
        told: dict[tuple[str, int], set[str]] = {}
        for entry in self._events.read_since(0) if records or is_lost else ():
            if entry.component and entry.life:
                told.setdefault((entry.component, entry.life), set()).add(entry.event)
        ends = {(r.name, r.life): untold_end(r, told.get((r.name, r.life), set())) for r in records}
        if is_lost:  # the state, that is: the history still knows which lives there were
            self._state.recall(dict(told.keys()))
            ends = {life: "exited" for life, events in told.items() if "starting" in events and "exited" not in events}
        for (name, life), end in ends.items():
            teller = Teller(name, self._supervisor.journal, self._logs)
            if end == "exited":
                teller.exited(life, ExitStatus(), None)
            elif end == "start_failed":
                teller.unborn(life, DIED_IN_SPAWN, None)

    async def _end_strays(self, crashed: bool) -> None:
        """End what belongs to this home and what no record claims, before anything starts."""
        identities = [r.identity for n, r in self._loaded.components.items() if n in self._stack.components]
        # An intent to spawn claims nothing: what came of it cannot be proven, and is ended here.
        claimed = {one.nonce for one in identities if crashed and one is not None and (one.pid or one.container_id)}
        for stray in await self._processes.end_strays(claimed):
            pids = ", ".join(map(str, stray.pids))
            end = "ended" if stray.gone else "cannot be ended"
            self._supervisor.journal.record(
                "orphan_removed", component=stray.component, message=f"pid {pids} {end}", pids=list(stray.pids)
            )
        for name in self._loaded.components:
            if name not in self._stack.components:
                self._state.forget(name)

    async def _begin(self, crashed: bool) -> None:
        """Start what is enabled. After a crash: what is new, anew what has another definition, and what
        the last daemon had stopped only to start it again."""
        known = self._loaded.components if crashed else {}
        specs = self._stack.components
        old = {name: known[name] for name in specs if name in known}
        changed = [name for name, r in old.items() if r.wanted and r.definition != specs[name].definition]
        left = [name for name, record in old.items() if record.shown.enabled and not specs[name].enabled]
        joining = [name for name in specs if specs[name].enabled and not (name in old and old[name].shown.enabled)]
        again = {*changed, *joining} - {*left}
        returning = {name for name, record in old.items() if is_to_return(record)} - {*left}
        await self._supervisor.stop([*changed, *left], "reload", returning=again)
        await self._supervisor.begin(again, "reload" if crashed else None, resuming=changed)
        await self._supervisor.begin(returning - again, None, resuming=returning)

    async def _heed(self, arrivals: AsyncIterator[int]) -> None:
        """Do what signals ask for: an orderly end, a faster one, a reload."""
        asked_at = float("inf")
        async with trio.open_nursery() as nursery:
            async for number in arrivals:
                if number == signals.SIGHUP:
                    nursery.start_soon(self._reload_by_signal)
                elif not self._shutdown_begun:
                    asked_at = trio.current_time()
                    nursery.start_soon(self.shutdown)
                elif trio.current_time() - asked_at > SAME_SIGNAL:
                    nursery.start_soon(self._supervisor.hurry)

    async def _reload_by_signal(self) -> None:
        try:
            await self.reload()
        except RefusedError as exc:
            log.error("%s", exc)

    # Chores.

    async def _keep_logs_small(self) -> None:
        """Rotate what is due, several logs at once: a loud component must not hold up the logs of others."""
        rotating: set[str] = set()
        limiter = trio.CapacityLimiter(ROTATIONS_AT_ONCE)

        async def rotate(component: str) -> None:
            await self._do_chore(partial(self._logs.rotate, component), limiter)
            rotating.remove(component)

        looking = trio.CapacityLimiter(1)
        async with trio.open_nursery() as rotations:
            while True:
                due = await self._do_chore(self._logs.find_due, looking) or []
                for component in set(due) - rotating:
                    rotating.add(component)
                    rotations.start_soon(rotate, component)
                await trio.sleep(ROTATION_PERIOD)

    async def _repeat(self, chore: Callable[[], None], period: float) -> None:
        """Do a chore again and again, in a thread of its own: one that a dead file system hangs holds up no other."""
        limiter = trio.CapacityLimiter(1)
        while True:
            await self._do_chore(chore, limiter)
            await trio.sleep(period)

    async def _do_chore(self, chore: Callable[[], T], limiter: trio.CapacityLimiter) -> T | None:
        """What the chore returns; None, after a while, where what it needs is lacking."""
        try:
            done = await trio.to_thread.run_sync(chore, abandon_on_cancel=True, limiter=limiter)
        except (RuntimeError, MemoryError, OSError) as exc:
            self._lacks[limiter] = f"the daemon lacks something for its files, and waits for it: {exc or 'memory'}"
            log.warning("%s", self._lacks[limiter])
            await trio.sleep(CHORE_PAUSE)
            return None
        self._lacks.pop(limiter, None)
        return done

    async def _settle_logs(self) -> None:
        """Let a rotation end that was under way when its thread was let go: only another daemon could."""
        with trio.move_on_after(ROTATION_BOUND):
            await self._do_chore(self._logs.rotate_due, trio.CapacityLimiter(1))

    def _checkpoint(self) -> None:
        self._events.flush()
        self._state.checkpoint(last_seq=self._events.last_seq)
        self._own_log.reopen()

    def _look_at_files(self) -> None:
        stack = self._stack
        stale = is_stale(stack)
        if stack is self._stack:
            self._is_stale = stale

    async def _save(self, *, clean: bool) -> None:
        self._remember(clean=clean)
        try:
            with trio.move_on_after(SAVE_BOUND):
                await trio.to_thread.run_sync(self._checkpoint, abandon_on_cancel=True)
        except RuntimeError:  # no more threads; nobody else needs this one any more
            self._checkpoint()

    def _remember(self, *, clean: bool) -> None:
        self._state.set_daemon(
            DaemonRecord(
                pid=os.getpid(),
                start_ticks=identity.start_ticks(os.getpid()),
                boot_id=identity.boot_id(),
                version=__version__,
                started_at=self._began_at,
                config=self._config,
                source=self._stack.source,
                log_format=self._start.log_format,
                log_level=self._start.log_level,
                clean=clean,
            )
        )

    async def _log_events(self, task_status: trio.TaskStatus[None]) -> None:
        with self._supervisor.journal.watch(None) as feed:
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

    # The configuration.

    async def _load(self, path: str | None, *, must_exist: bool) -> StackSpec:
        """Read the configuration in a thread.

        Raises:
            StartError: with every error in it.
        """
        home, environment = self._start.home.path, self._start.environment

        def load(agent_in_container: bool) -> StackSpec:
            return load_stack(
                path,
                home=home,
                environ=environment,
                agent_in_container=agent_in_container,
                must_exist=must_exist,
            )

        try:
            stack = await self._read_config(partial(load, False))
            if stack.source is None and await self._containers.has_image(AGENT_IMAGE):
                stack = await self._read_config(partial(load, True))
        except ConfigError as exc:
            raise StartError(str(exc), code=2) from exc
        return stack

    async def _read_config(self, load: Callable[[], StackSpec]) -> StackSpec:
        with trio.move_on_after(LOAD_BOUND):
            return await trio.to_thread.run_sync(load, abandon_on_cancel=True, limiter=self._loading)
        raise StartError(
            f"the configuration could not be read within {LOAD_BOUND:g} s: it, or an env_file, "
            "lies on a file system that does not answer",
            code=2,
        )

    # The operations.

    async def status(self, names: Sequence[str] = (), *, verbose: bool = False) -> StatusDocument:
        """The status document."""
        known = self._known(names)
        usage: dict[str, ComponentDocument] = {}
        documents = {name: self._document(name) for name in known}
        if verbose:
            async with trio.open_nursery() as looks:
                for name in known:
                    life = self._supervisor.component(name).life
                    if life is not None:
                        looks.start_soon(self._measure, life, documents[name], usage)
        components = tuple(usage.get(name, documents[name]) for name in known)
        return StatusDocument(
            daemon=self._daemon_document(), healthy=is_stack_healthy(components), components=components
        )

    def _document(self, name: str) -> ComponentDocument:
        component = self._supervisor.component(name)
        document = self._supervisor.board.document(name, trio.current_time(), self._clock.wall())
        note = component.life.note if component.life is not None else ""
        return document if document.reason or not note else msgspec.structs.replace(document, reason=note)

    async def _measure(self, life: Life, document: ComponentDocument, measured: dict[str, ComponentDocument]) -> None:
        with trio.move_on_after(USAGE_BOUND):
            usage = await life.usage()
            measured[document.name] = msgspec.structs.replace(
                document, cpu_percent=usage.cpu_percent, memory_bytes=usage.memory_bytes
            )

    def _daemon_document(self) -> DaemonDocument:
        return DaemonDocument(
            pid=os.getpid(),
            version=__version__,
            protocol=PROTOCOL,
            started_at=self._began_at,
            uptime=round(trio.current_time() - self._began, 3),
            home=self._start.home.path,
            config=self._stack.source,
            config_stale=self._is_stale,
            problems=self._problems(),
        )

    def _problems(self) -> tuple[str, ...]:
        strangers = [self._supervisor.component(name).stranger for name in self._supervisor.board.names()]
        said = [
            *self._loaded.problems,
            self._reload_problem,
            self._state.problem,
            self._events.problem,
            describe_shortage(self._start.lock),
            *self._lacks.values(),
            *self._processes.problems,
            *self._logs.problems,
            *strangers,
        ]
        return tuple(dict.fromkeys(sentence for sentence in said if sentence))

    async def start(self, names: Sequence[str] = (), *, timeout: float | None = None) -> tuple[Answer, ...]:
        """Start components and wait for them; without names, all that are enabled."""
        self._refuse_while_closing()
        if names:
            return await self._supervisor.start(self._known(names), "operator", timeout)
        enabled = [name for name, spec in self._supervisor.specs.items() if spec.enabled]
        return await self._supervisor.start(enabled, "operator", timeout, is_awaited=_is_required)

    async def stop(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        """Stop components."""
        return await self._supervisor.stop(self._known(names), "operator", _cap(timeout, now))

    async def restart(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        """Restart components; without names, all that were wanted up or have failed."""
        self._refuse_while_closing()
        cap = 0.0 if now else None
        if names:
            return await self._supervisor.restart(self._known(names), "operator", timeout, cap)
        views = {name: self._supervisor.component(name).view for name in self._known(())}
        chosen = [name for name, view in views.items() if view.state.wanted or view.phase is Phase.FAILED]
        return await self._supervisor.restart(chosen, "operator", timeout, cap, is_awaited=_is_required)

    async def signal(self, names: Sequence[str], signal: str) -> tuple[Answer, ...]:
        """Signal the leaders."""
        name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
        if name in FORBIDDEN_SIGNALS or name not in signals.Signals.__members__:
            known = "`stop --now` kills" if name == "SIGKILL" else "give a name such as HUP or USR1"
            raise RefusedError(Refusal.FAILED, f"{signal} cannot be sent: {known}")
        components = [self._supervisor.component(known) for known in self._known(names)]
        return tuple([await self._signal_one(component, name) for component in components])

    async def _signal_one(self, component: Component, signal: str) -> Answer:
        name = component.name
        life: Life | None = component.life
        state = component.view.state.shown
        if life is None or not life.is_alive():
            return Answer(name=name, state=state, ok=False, message=f"not running: {state}")
        await life.signal_leader(signal)
        return Answer(name=name, state=state, ok=True)

    async def reload(self, *, dry_run: bool = False) -> Change:
        """Apply the changed configuration, or tell what would change."""
        self._refuse_while_closing()
        if self._reloading:
            raise RefusedError(Refusal.BUSY, "another reload is under way")
        self._reloading = True
        try:
            return await self._reload(dry_run)
        finally:
            self._reloading = False

    async def _reload(self, dry_run: bool) -> Change:
        try:
            stack = await self._load(self._config, must_exist=self._stack.source is not None)
        except StartError as exc:
            if not dry_run:
                self._reload_problem = f"the configuration was not reloaded: {exc}"
            raise RefusedError(Refusal.BAD_CONFIGURATION, str(exc)) from exc
        change = self._plan(stack)
        if dry_run:
            return change
        self._reload_problem = ""
        probes.preload(stack.components.values())
        self._stack, self._is_stale = stack, False
        set_level(self._start.log_level or stack.daemon.log_level)
        await self._supervisor.apply(stack.components, change)
        self._remember(clean=False)
        self._supervisor.journal.record(
            "config_reloaded",
            reason="reload",
            added=list(change.added),
            removed=list(change.removed),
            changed=list(change.changed),
            restarted=list(change.restarted),
        )
        return change

    def _plan(self, stack: StackSpec) -> Change:
        old, new = self._stack.daemon, stack.daemon
        daemon = [each.name for each in fields(new) if getattr(old, each.name) != getattr(new, each.name)]
        return replace(self._supervisor.plan(stack.components), daemon=tuple(daemon))

    async def explain(self, name: str) -> dict[str, Any]:
        """The report on a component's last failure."""
        (known,) = self._known((name,))
        everything = tuple(self._document(other) for other in self._supervisor.board.names())
        document = self._document(known)
        events = await trio.to_thread.run_sync(self._supervisor.journal.history, known)

        def look() -> ExplainReport:
            return build_report(document, everything, events, lambda n: tail_texts(document.log, n), self._clock.wall())

        plain: dict[str, Any] = to_plain(await trio.to_thread.run_sync(look))
        return plain

    async def shutdown(self, *, timeout: float | None = None, now: bool = False) -> tuple[Answer, ...]:
        """Stop everything, then let the daemon end. Asked again, it only becomes faster."""
        cap = _cap(timeout, now)
        if not self._shutdown_begun:
            self._shutdown_begun = True
            self._supervisor.journal.record("daemon_stopping", reason="shutdown")
        elif cap == 0.0:
            await self._supervisor.hurry()
        answers = await self._supervisor.close(cap)
        self._survivors = tuple(pid for answer in answers for pid in answer.survivors)
        self._end.set()
        return answers

    async def reexec(self) -> None:
        """Become the program that is installed now, once it has shown that it loads this configuration."""
        self._refuse_while_closing()
        objection = await ask_next_program(self._start, self._stack.source)
        if objection is not None:
            raise RefusedError(
                Refusal.FAILED, f"the new program does not load this configuration, nothing was changed: {objection}"
            )
        self._refuse_while_closing()  # a shutdown that began meanwhile has the last word
        self._reexec = True
        self._end.set()

    def watch_events(self, since: int | None, names: Sequence[str] = ()) -> AbstractContextManager[EventFeed]:
        """Subscribe to the history."""
        return self._supervisor.journal.watch(since, self._known(names) if names else ())

    async def wait_status_change(self, seen: int) -> int:
        """Wait for another version of the status."""
        await self._supervisor.board.wait_change(seen)
        version: int = self._supervisor.board.version.value
        return version

    def _known(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if name not in self._supervisor.specs:
                known = ", ".join(self._supervisor.specs) or "none"
                raise RefusedError(Refusal.UNKNOWN_COMPONENT, f"there is no component {name!r}; there are: {known}")
        return tuple(name for name in self._supervisor.specs if not names or name in names)

    def _refuse_while_closing(self) -> None:
        if self._shutdown_begun:
            raise RefusedError(Refusal.SHUTTING_DOWN, "the daemon is shutting down")


def _log_problem(message: str, error: BaseException | None = None) -> None:
    log.warning("%s", message, exc_info=error)


def _is_running(daemon: DaemonRecord) -> bool:
    """Whether that very daemon runs. One that was killed may be a zombie for long, under a lazy PID 1."""
    found = identity.read_stat(daemon.pid)
    return found is not None and found.is_alive and found.start_ticks == daemon.start_ticks


def _is_required(spec: ComponentSpec) -> bool:
    """Whether a stack is not up without it."""
    return spec.enabled and not spec.optional


def _cap(timeout: float | None, now: bool) -> float | None:
    """How an operator bounds the grace: not at all, by a timeout, or to nothing."""
    return 0.0 if now else timeout
