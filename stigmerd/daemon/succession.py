"""How this daemon goes on where the last one ended: the counterpart of ``legacy``.

Here it is decided what of the last daemon counts, and what is to begin, to stop and to be told because
of it. How a single component goes on is the engine's business.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from stigmerd.adapters.disk.home import Home, HomeTakenError
from stigmerd.adapters.disk.state import Loaded, StateFiles
from stigmerd.adapters.processes import identity
from stigmerd.adapters.processes.process import ProcessLauncher
from stigmerd.core.event import Entry
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.record import ComponentRecord
from stigmerd.core.spec import ComponentSpec, ContainerSpec, StopPolicy
from stigmerd.daemon.start import StartError
from stigmerd.engine.board import View
from stigmerd.engine.gate import ENGINE_PERIOD
from stigmerd.engine.journal import Journal
from stigmerd.engine.ports import Clock, EngineUnavailableError, EventStore, Logs
from stigmerd.engine.restore import DIED_IN_SPAWN, is_to_return, restored_view, untold_end
from stigmerd.engine.supervisor import Supervisor
from stigmerd.engine.telling import Teller

if TYPE_CHECKING:
    from stigmerd.adapters.containers.container import Stray

END_LOOKS, END_PAUSE = 20, 0.05
"""How often, and seconds apart, to look for the end of a daemon that is killed and has lost its lock already."""

PARTING_GRACE = 3.0
"""Seconds that components have to end, at most, that are in the configuration no more: everything waits for them,
who asks for a hello too."""

Specs = Mapping[str, ComponentSpec]


class Containers(Protocol):
    """Whoever can end the containers of this home."""

    async def end_strays(self, keep: Collection[str]) -> tuple[Stray, ...]:
        """End and remove those that neither a nonce in ``keep`` nor this daemon claims.

        Raises:
            EngineUnavailableError: the engine cannot be asked now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Which components a daemon begins with.

    First those in ``stopping`` are stopped. ``starting`` are wanted up as by whoever changed the
    configuration; those of them in ``stopping`` unless somebody has asked otherwise since.
    ``returning`` were stopped by the last daemon only to be started again, which goes on.
    """

    stopping: frozenset[str]
    starting: frozenset[str]
    returning: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """What the last daemon ``left``, as this one finds it in its home. ``boot_id`` is the host's now."""

    home: Home
    left: Loaded
    boot_id: str

    @property
    def goes_on(self) -> bool:
        """Whether the last daemon died, or replaced itself, on this boot, without an ordered stop."""
        last = self.left.daemon
        return last is not None and last.boot_id == self.boot_id and not last.clean

    @property
    def config(self) -> str | None:
        """The file that a daemon which died had read: were it gone, another stack would end that one's lives."""
        last = self.left.daemon
        return last.source if last is not None and not last.clean else None

    def records(self, specs: Specs) -> dict[str, ComponentRecord]:
        """The components that go on where the last daemon left them, in the order of the file."""
        known = self.left.components if self.goes_on else {}
        return {name: known[name] for name in specs if name in known}

    # Before anything is touched.

    async def refuse_second(self) -> None:
        """Look for the last daemon itself: somebody may have removed the lock that it holds.

        Raises:
            StartError: it runs.
        """
        last = self.left.daemon
        if last is None or not self.goes_on or last.pid == os.getpid():
            return
        for _ in range(END_LOOKS):
            if not identity.is_running(last):
                return
            await trio.sleep(END_PAUSE)
        raise StartError(str(HomeTakenError(self.home.path, last.pid)))

    def refuse_other_config(self, source: str | None, *, is_given: bool) -> None:
        """Keep an operator from ending lives by naming another file.

        Raises:
            StartError: another file was given than the last daemon's, of which something still runs.
        """
        last = self.left.daemon
        if not self.goes_on or last is None or source == last.source:
            return
        alive = [r.name for r in self.left.components.values() if r.identity and identity.is_alive(r.identity)]
        if alive and is_given:
            raise StartError(
                f"of another configuration ({last.source or 'the reference stack'}) these still run: "
                f"{', '.join(alive)}. End them with `stigmer server stop` first, or start without --config"
            )

    # Before anything begins.

    def restore(self, specs: Specs, logs: Logs, clock: Clock) -> dict[str, View]:
        """Every known component as the daemon that died left it."""
        now, boot = trio.current_time(), clock.boot()
        return {
            name: restored_view(record, specs[name], logs.path(name), now, boot)
            for name, record in self.records(specs).items()
        }

    async def end_strays(self, specs: Specs, processes: ProcessLauncher, journal: Journal) -> None:
        """End the processes that belong to this home and that no record claims.

        What was removed from the configuration meanwhile is asked to end; of the rest nothing is known.
        """
        identities = [record.identity for record in self.records(specs).values()]
        # An intent to spawn claims nothing: what came of it cannot be proven, and is ended here.
        claimed = {one.nonce for one in identities if one is not None and (one.pid or one.container_id)}
        removed = [r for name, r in self.left.components.items() if self.goes_on and name not in specs]
        policies = {r.name: StopPolicy(signal=r.stop_signal, grace=min(r.grace, PARTING_GRACE)) for r in removed}
        leaders = {r.name: r.identity for r in removed if r.identity is not None}
        for stray in await processes.end_strays(claimed, policies, leaders):
            pids = ", ".join(map(str, stray.pids))
            end = "ended" if stray.gone else "cannot be ended"
            journal.record(
                "orphan_removed", component=stray.component, message=f"pid {pids} {end}", pids=list(stray.pids)
            )

    async def end_stray_containers(self, specs: Specs, containers: Containers, journal: Journal) -> None:
        """The same for containers, however long it takes until there is an engine that can do it.

        No engine is asked where neither this stack nor what the last daemon left has to do with containers.
        """
        claimed = {
            record.identity.nonce
            for name, record in self.records(specs).items()
            if isinstance(specs[name].runs, ContainerSpec) and record.identity and record.identity.container_id
        }
        if not (_has_containers(specs) or self._left_containers(claimed)):
            return
        for stray in await _insist(partial(containers.end_strays, claimed)):
            end = "ended and removed" if stray.gone else "cannot be removed yet"
            journal.record(
                "orphan_removed",
                component=stray.component,
                message=f"container {stray.container_id[:12]} {end}",
                container=stray.container_id,
            )

    def _left_containers(self, claimed: Set[str]) -> bool:
        identities = [r.identity for r in self.left.components.values() if r.shown.kind == "container"]
        return any(one is not None and one.nonce not in claimed for one in identities)

    def forget_removed(self, specs: Specs, state: StateFiles) -> None:
        """Drop what is known of components that are not in the configuration any more. To be called once
        nothing of them is left: a daemon that dies before has to leave word of it to the next."""
        for name in self.left.components:
            if name not in specs:
                state.forget(name)

    def tell_lost_exits(
        self, specs: Specs, events: EventStore, journal: Journal, state: StateFiles, logs: Logs
    ) -> None:
        """Account for lives that nobody adopts: they ended in a reboot, by an operator's hand, or as strays."""
        adopted = self.records(specs)
        records = [r for r in self.left.components.values() if r.identity and r.name not in adopted]
        is_lost = self.left.daemon is None and events.last_seq > 0
        told = _told_by_life(events.read_since(0) if records or is_lost else ())
        ends = {(r.name, r.life): untold_end(r, told.get((r.name, r.life), set())) for r in records}
        if is_lost:  # the state, that is: the history still knows which lives there were
            state.recall(dict(told.keys()))
            ends = {life: "exited" for life, said in told.items() if "starting" in said and "exited" not in said}
        for (name, life), end in ends.items():
            teller = Teller(name, journal, logs)
            if end == "exited":
                teller.exited(life, ExitStatus(), None)
                teller.write_last_line()
            elif end == "start_failed":
                teller.unborn(life, DIED_IN_SPAWN, None)

    # What begins.

    def plan(self, specs: Specs) -> Beginning:
        """What is enabled begins. After a crash: what is new, anew what has another definition, and what
        the last daemon had stopped only to start it again."""
        old = self.records(specs)
        changed = [name for name, r in old.items() if r.wanted and r.definition != specs[name].definition]
        left = [name for name, record in old.items() if record.shown.enabled and not specs[name].enabled]
        joining = [name for name in specs if specs[name].enabled and not (name in old and old[name].shown.enabled)]
        returning = {name for name, record in old.items() if is_to_return(record)}
        return Beginning(
            stopping=frozenset({*changed, *left}),
            starting=frozenset({*changed, *joining} - {*left}),
            returning=frozenset(returning - {*left}),
        )

    async def begin(self, supervisor: Supervisor) -> None:
        """Set going what :meth:`plan` says."""
        plan = self.plan(supervisor.specs)
        await supervisor.stop(plan.stopping, "reload", returning=plan.starting)
        reason = "reload" if self.goes_on else None
        await supervisor.begin(plan.starting, reason, resuming=plan.stopping)
        await supervisor.begin(plan.returning - plan.starting, None, resuming=plan.returning)


def _has_containers(specs: Specs) -> bool:
    return any(spec.enabled and isinstance(spec.runs, ContainerSpec) for spec in specs.values())


async def _insist(end_strays: Callable[[], Awaitable[tuple[Stray, ...]]]) -> tuple[Stray, ...]:
    while True:
        try:
            return await end_strays()
        except EngineUnavailableError:
            await trio.sleep(ENGINE_PERIOD)


def _told_by_life(entries: Iterable[Entry]) -> dict[tuple[str, int], Set[str]]:
    """The events that the history has of each life."""
    told: dict[tuple[str, int], set[str]] = {}
    for entry in entries:
        if entry.component and entry.life:
            told.setdefault((entry.component, entry.life), set()).add(entry.event)
    return {**told}
