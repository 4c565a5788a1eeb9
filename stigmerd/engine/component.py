"""The task that owns one component: it feeds the lifecycle table and does what the table says.

Everything that concerns the component comes to this task through its mailbox, so nothing here
needs a lock. Tasks that belong to one life, or to one phase, live in a nursery that ends with it.
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import trio

from stigmerd.core.event import Entry
from stigmerd.core.exit_status import ExitStatus, judge
from stigmerd.core.exit_status import Verdict as ExitVerdict
from stigmerd.core.health import Streak, Verdict
from stigmerd.core.lifecycle import Command, Event, FailedBecause, Phase, State, step, under_policy
from stigmerd.core.record import Identity
from stigmerd.core.spec import ComponentSpec, ProbeKind, ProcessSpec
from stigmerd.core.status import ExitDocument
from stigmerd.engine.board import Board, View, with_attempt
from stigmerd.engine.checkup import Checkup
from stigmerd.engine.journal import Journal, rfc3339
from stigmerd.engine.life import Ended, Tenure
from stigmerd.engine.ports import (
    EngineUnavailableError,
    Launcher,
    LaunchOrder,
    Life,
    Shut,
    SpawnFailedError,
    World,
)
from stigmerd.engine.restore import DIED_IN_SPAWN, to_record, unborn_view
from stigmerd.engine.telling import Condemnation, Teller
from stigmerd.engine.turns import Turns

SPAWN_BOUND = 10.0
"""Seconds until a spawn is given up."""

SPAWN_LEEWAY = 1.0
"""Seconds that a spawn has to come back although its life is to end at once: what is there can be ended,
and seen to be dead; what was given up cannot."""

ENGINE_PERIOD = 5.0
"""Seconds between two tries to reach the Docker Engine."""

GATE_PERIODS = {"port": 1.0, "engine": ENGINE_PERIOD}
"""Seconds between two looks at a gate whose opening nobody announces."""

PASSES_TO_BEGIN = 2
"""Passes of the loop from a message to a component until it was surely taken in: within one pass, who is
first is left to chance."""

MERGE_WINDOW = 0.25
"""Seconds from the begin of a life that a restart asked for, in which one more restart means that same
life: ten restarts asked for at once are one, and who asks after that gets another."""

EXIT_EVENTS = {
    ExitVerdict.RESTART: Event.EXITED,
    ExitVerdict.COMPLETE: Event.EXITED_DONE,
    ExitVerdict.FAIL: Event.EXITED_BAD,
    ExitVerdict.FATAL: Event.EXITED_FATAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Somebody wants something of the component. ``reason`` is one of the history's reasons.

    ``cap`` bounds the grace of a stop, in seconds, below what the configuration says. ``returns``
    says of a stop that a start belongs to it, which the next daemon makes if this one dies before.
    ``resumes`` marks that start: it counts for nothing if somebody asked for a stop in between.
    """

    event: Event
    reason: str | None = None
    cap: float | None = None
    returns: bool = False
    resumes: bool = False
    taken: trio.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Respec:
    """The configuration of the component has changed; ``returns`` as in :class:`Ask`."""

    spec: ComponentSpec
    returns: bool
    taken: trio.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a task of life number ``life`` saw; ``then`` is done only while that life is the present one."""

    life: int
    then: Callable[[], None]


Message = Ask | Respec | Seen


class Component:
    """Owns one component. ``run`` is its task; the other public methods only ask things of it."""

    def __init__(
        self,
        spec: ComponentSpec,
        world: World,
        board: Board,
        journal: Journal,
        turns: Turns,
        *,
        on_new_life: Callable[[str], None],
        is_closing: Callable[[], bool],
        restored: View | None = None,
    ) -> None:
        self._world = world
        self._board = board
        self._journal = journal
        self._turns = turns
        self._teller = Teller(spec.name, journal, world.logs)
        self._on_new_life = on_new_life
        self._is_closing = is_closing
        self._mail: deque[Message] = deque()
        self._arrived = trio.Event()
        self._tasks: trio.Nursery | None = None
        self._launching = trio.CancelScope()
        self._ordered_life = 0
        self._order: LaunchOrder | None = None
        """Of a launch that was begun and is not waited for yet."""
        self._newborn: Life | None = None
        self._tenure: Tenure | None = None
        self._lingering: Tenure | None = None
        self._checkup: Checkup | None = None
        self._condemned: Condemnation | None = None
        self._is_renewal_due = False
        self._renewed_life = 0
        self._cause: str | None = None
        self._cap: float | None = None
        self._shut: Shut | None = None
        self._impostor = ""
        self.proven = trio.Event()
        """Set once it is known what became of the life that an earlier daemon left, if any."""
        if restored is None:
            self.proven.set()
        self._told_exit: Entry | None = None
        """The exit of the present life, where the last daemon wrote it down and died before it was in the state."""
        self._unsaved = restored is None
        self.is_retired = False
        """Whether it has left the configuration: it takes nothing in any more."""
        self._definition = spec.definition
        self._view = restored or unborn_view(spec, world.logs.path(spec.name), world.state.last_life(spec.name))
        world.logs.rule(spec.name, spec.log)
        board.add(self._view)
        self._save()  # what is never started is known to whoever asks when no daemon runs

    # What the outside may do.

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self._spec.name

    @property
    def view(self) -> View:
        """The component as it is now."""
        return self._view

    @property
    def is_wanted(self) -> bool:
        """Whether the operator wants it up, be it on its way down for a while."""
        return self._state.wanted or self._view.returns

    @property
    def life(self) -> Life | None:
        """The present life, to look at and to signal its leader."""
        return self._tenure.life if self._tenure is not None else None

    @property
    def stranger(self) -> str:
        """One sentence about a stranger who has this component's port, or answers in its place; or ""."""
        if self._state.phase is Phase.WAITING and self._shut is not None and self._shut.reason == "port":
            return f"{self.name}: {self._shut.message}"
        return self._impostor

    async def ask(
        self,
        event: Event,
        reason: str | None,
        cap: float | None = None,
        *,
        returns: bool = False,
        resumes: bool = False,
    ) -> View:
        """Ask for something, and return the component as it is once the wish was taken in."""
        message = Ask(event=event, reason=reason, cap=cap, returns=returns, resumes=resumes, taken=trio.Event())
        self._post(message)
        await message.taken.wait()
        return self._view

    async def respec(self, spec: ComponentSpec, *, returns: bool) -> None:
        """Let a changed configuration take effect, without a new life. ``returns``: a start follows."""
        message = Respec(spec=spec, returns=returns, taken=trio.Event())
        self._post(message)
        await message.taken.wait()

    def retire(self) -> None:
        """Take nothing in any more: whoever still asks gets the component as it is."""
        self.is_retired = True
        self._dismiss_mail()

    def follow(self) -> None:
        """Tell that a dependency began a new life."""
        self._post(Ask(event=Event.FOLLOW, reason="dependency", taken=trio.Event()))

    # The task.

    async def run(self) -> None:
        """Own the component until cancelled. May be run again after an internal error."""
        async with trio.open_nursery() as beyond:
            if not self.proven.is_set():
                await self._prove_life()
                self.proven.set()
            while True:
                if self._lingering is not None:
                    beyond.start_soon(self._outlive, self._lingering)
                await self._phases_without_life()
                await self._one_life()

    async def fail_internally(self, error: str) -> None:
        """Put the component into failed after a bug in its task, with nothing of its life left alive."""
        await self._end_at_once()
        state = msgspec.structs.replace(
            self._state,
            phase=Phase.FAILED,
            due=None,
            charge=False,
            trial=False,
            spawned_at=None,
            failed_because=FailedBecause.INTERNAL,
        )
        state = under_policy(state, trio.current_time(), self._spec.restart)  # a trial comes also after this
        self._teller.event("failed", state.life, reason="internal", message=error)
        self._teller.line(f"Failed {self._spec.name}: {error}")
        self._show(state=state, note=error, last_error=error, identity=None)
        self._save()
        self._dismiss_mail()

    async def _end_at_once(self) -> None:
        tenure = self._tenure
        if self._order is not None:
            self._launching = trio.CancelScope(deadline=trio.current_time() + SPAWN_BOUND)
            await self._launch()
        if tenure is None and self._newborn is not None:
            tenure = self._new_tenure(self._newborn)
        if tenure is not None:
            tenure.end(self._spec.stop, 0.0)
            ended = await tenure.run()
            self._lingering = None if ended.over else tenure
        self._tenure = self._newborn = None

    async def _phases_without_life(self) -> None:
        while not self._state.has_life:
            if self._state.phase is not Phase.WAITING:
                await self._next_message()
                continue
            async with trio.open_nursery() as gate:
                spec = self._spec
                gate.start_soon(self._watch_gate)
                while self._state.phase is Phase.WAITING and self._spec is spec:
                    await self._next_message()
                gate.cancel_scope.cancel()

    async def _one_life(self) -> None:
        """Everything that concerns one life happens in this nursery, and ends with it."""
        number = self._state.life
        async with trio.open_nursery() as self._tasks:
            if self._tenure is None:
                self._begin_life()  # unless that was done already; before a stop is heard, in any case
                self._launching = trio.CancelScope(deadline=trio.current_time() + SPAWN_BOUND)
                self._tasks.start_soon(self._launch)
            else:
                self._attend(self._tenure)  # adopted
            while self._state.has_life and self._state.life == number:
                await self._next_message()
            self._tasks.cancel_scope.cancel()

    # The mailbox.

    def _post(self, message: Message) -> None:
        self._mail.append(message)
        self._arrived.set()
        if self.is_retired:
            self._dismiss_mail()

    def _dismiss_mail(self) -> None:
        for message in self._mail:
            if not isinstance(message, Seen):
                message.taken.set()
        self._mail.clear()

    def _saw(self, then: Callable[[], None]) -> None:
        self._post(Seen(life=self._state.life, then=then))

    async def _next_message(self) -> None:
        """Take in one message, or the deadline, whichever comes first."""
        due = self._state.due
        if not self._mail and (due is None or due > trio.current_time()):
            await self._wait_arrival(due)
        if not self._mail:
            self._step(Event.DEADLINE)
            self._save()
            self._begin_life()
            return
        message = self._mail.popleft()
        match message:
            case Ask():
                self._take(message)
                message.taken.set()
            case Respec():
                self._take_spec(message.spec, message.returns)
                message.taken.set()
            case Seen():
                if message.life == self._state.life:
                    message.then()
                if self._mail and self._state.phase is not Phase.SPAWNING:
                    return  # it is remembered with what comes next, before anything is awaited
        self._save()
        self._begin_life()

    async def _wait_arrival(self, due: float | None) -> None:
        self._arrived = trio.Event()
        if due is None:  # mostly; and a scope takes as long as all else that is done here
            await self._arrived.wait()
            return
        with trio.move_on_at(due):
            await self._arrived.wait()

    def _take(self, ask: Ask) -> None:
        if ask.event is not Event.DOWN and self._is_closing():
            return
        if ask.resumes and not self.is_wanted:
            return
        before = self._state
        former_cause, self._cause, self._cap = self._cause, ask.reason, ask.cap
        if ask.event is not Event.FOLLOW:
            self._is_renewal_due = ask.event is Event.BOUNCE
            # A reload or a shutdown, planned a moment ago, does not bring back what was stopped since.
            self._show(returns=ask.returns and (ask.reason == "operator" or self.is_wanted))
        self._step(Event.UP if ask.event is Event.BOUNCE and self._is_just_renewed() else ask.event)
        if self._state.phase is before.phase:
            self._cause = former_cause
        if ask.event is Event.DOWN:
            self._hasten(ask.cap)

    def _is_just_renewed(self) -> bool:
        spawned_at, now = self._state.spawned_at, trio.current_time()
        young = spawned_at is not None and now - spawned_at < MERGE_WINDOW
        return young and self._renewed_life == self._state.life and self._state.phase in {Phase.STARTING, Phase.RUNNING}

    def _hasten(self, cap: float | None) -> None:
        """Let an end that is under way become as fast as the newest request wants it."""
        if self._tenure is not None:
            self._tenure.end(self._spec.stop, cap)
        grace = self._spec.stop.grace if cap is None else min(cap, self._spec.stop.grace)
        leeway = max(grace, SPAWN_LEEWAY)
        self._launching.deadline = min(self._launching.deadline, trio.current_time() + leeway)

    def _take_spec(self, spec: ComponentSpec, returns: bool) -> None:
        probes_changed = dict(spec.probes) != dict(self._spec.probes)
        state = self._state
        if spec.restart.recovery != self._spec.restart.recovery:
            state = under_policy(state, trio.current_time(), spec.restart)
        self._world.logs.rule(spec.name, spec.log)
        self._definition = spec.definition
        self._show(spec=spec, state=state, returns=returns or self._view.returns)
        if probes_changed and self._tenure is not None and self._state.phase in {Phase.STARTING, Phase.RUNNING}:
            self._stop_checkup()
            self._show(probes={})
            self._check_up(self._tenure.life)

    # Deciding, telling, showing, remembering.

    @property
    def _state(self) -> State:
        return self._view.state

    @property
    def _spec(self) -> ComponentSpec:
        return self._view.spec

    @property
    def _launcher(self) -> Launcher:
        return self._world.processes if isinstance(self._spec.runs, ProcessSpec) else self._world.containers

    def _step(self, event: Event, at: float | None = None) -> None:
        """Ask the table, tell and show what it decided, and begin what it commands. ``at``: when it was, if not now."""
        now = trio.current_time() if at is None else at
        decided = step(self._state, event, now, self._spec.restart, random.random())
        if decided.state.phase is not self._state.phase:
            self._enter(decided.state)
        else:
            self._show(state=decided.state)
        if self._is_backoff_over():
            self._step(Event.DEADLINE)
        elif decided.command is Command.CHECK_GATE and self._is_gate_trivial():
            self._step(Event.OPEN)
        elif decided.command is Command.END and self._tenure is not None:
            self._stop_checkup()
            self._tenure.end(self._spec.stop, self._cap)

    def _is_backoff_over(self) -> bool:
        """Whether the next life may begin in this very step, and be remembered in one record with the end
        of the last one, unless somebody has asked for something meanwhile."""
        state = self._state
        is_due = state.due is not None and state.due <= trio.current_time()
        return state.phase is Phase.BACKOFF and is_due and not self._mail

    def _enter(self, new: State) -> None:
        """Enter a phase: written down first, visible only then."""
        now = trio.current_time()
        note = self._teller.entered(self._view, new, now, cause=self._cause, condemned=self._condemned)
        changes: dict[str, object] = {"state": new, "note": note, "blocked_by": None}
        if new.phase is Phase.SPAWNING:
            nonce = f"{new.life}-{secrets.token_hex(12)}"
            intent = Identity(nonce=nonce, boot_id=self._world.boot_id)
            changes |= {"identity": intent, "probes": {}, "adopted": False, "exited": False}
            self._condemned = self._told_exit = None
            if self._is_renewal_due:
                self._renewed_life, self._is_renewal_due = new.life, False
            if new.last_restart != self._state.last_restart:
                changes["last_restart_at"] = rfc3339(self._world.clock.wall())
        elif new.phase is Phase.CONDEMNED:
            changes["last_error"] = note
        elif new.phase is Phase.RUNNING:
            changes["started_life"] = new.life
        elif not new.has_life:
            changes["identity"] = self._view.identity if self._lingering is not None else None
            self._shut = None
            if new.phase is Phase.BACKOFF:
                self._cause = None
        self._show(**changes)

    def _show(self, **changes: object) -> None:
        """Publish the component as it is now. A change of readiness is told first."""
        before = self._view
        view = msgspec.structs.replace(before, **changes)
        if view == before:
            return
        if view.phase is Phase.RUNNING and view.ready != before.ready and not view.exited:
            self._teller.event("ready" if view.ready else "unready", view.state.life, message=_evidence(view))
        self._view = view
        self._unsaved = self._unsaved or changes.keys() != {"probes"}
        self._board.publish(view)

    def _save(self) -> None:
        """Remember the component as it is now. Whoever shows a decision does this before it awaits anything."""
        if self._unsaved:
            self._unsaved = False
            now = trio.current_time()
            self._world.state.put(to_record(self._view, self._definition, now, self._world.clock))

    # The gate.

    def _is_gate_trivial(self) -> bool:
        spec = self._spec
        return isinstance(spec.runs, ProcessSpec) and not (
            spec.depends_on or spec.ports or self._lingering or self._is_closing()
        )

    async def _watch_gate(self) -> None:
        """Look until the gate is open, and say each time what it waits for."""
        while True:
            version = self._board.version.value
            shut = await self._look_at_gate()
            self._saw(partial(self._gate_seen, shut))
            if shut is None:
                return
            if shut.reason in GATE_PERIODS:
                await trio.sleep(GATE_PERIODS[shut.reason])
            elif shut.reason == "dependency":
                await self._board.wait_dependency_change(self._spec)
            else:
                await self._board.wait_change(version)

    async def _look_at_gate(self) -> Shut | None:
        if self._is_closing():
            return Shut(reason="shutdown", message="the daemon is shutting down")
        if self._lingering is not None:
            pids = ", ".join(f"pid {pid}" for pid in self._view.survivors)
            return Shut(reason="unkillable", message=f"waiting for the end of its last life ({pids})")
        # Asked again in the end: a dependency may go down while the ports or the engine are looked at.
        return self._unmet() or await self._launcher.check_gate(self._spec) or self._unmet()

    def _unmet(self) -> Shut | None:
        unmet = self._board.first_unmet(self._spec)
        if unmet is None:
            return None
        name, condition = unmet
        return Shut(reason="dependency", message=f"waiting for {name} to be {condition.value}")

    def _gate_seen(self, shut: Shut | None) -> None:
        if self._state.phase is not Phase.WAITING:
            return
        if shut is None:
            self._step(Event.OPEN)
            return
        unmet = self._board.first_unmet(self._spec) if shut.reason == "dependency" else None
        if self._shut is None or self._shut.reason != shut.reason:
            self._teller.event("waiting", self._state.life, reason=shut.reason, message=shut.message)
        self._shut = shut
        self._show(note=shut.message, blocked_by=unmet[0] if unmet else None)
        self._step(Event.SHUT)

    # One life.

    def _begin_life(self) -> None:
        """Have the launch begun as soon as the intent is on record, before the nursery of the new life is there."""
        life, identity = self._state.life, self._view.identity
        if self._state.phase is Phase.SPAWNING and self._ordered_life != life and identity is not None:
            self._ordered_life = life
            self._order = LaunchOrder(spec=self._spec, life=life, nonce=identity.nonce)
            self._launcher.begin(self._order)

    async def _launch(self) -> None:
        order, self._order = self._order, None
        assert order is not None
        with self._launching:
            try:
                self._newborn = await self._launcher.launch(order)
            except (SpawnFailedError, EngineUnavailableError) as exc:
                self._saw(partial(self._no_spawn, str(exc), getattr(exc, "errno", None)))
                return
        if self._launching.cancelled_caught:
            self._saw(partial(self._no_spawn, "the spawn was given up: it did not return (a hung file system?)", None))
        else:
            self._saw(self._spawned)

    def _no_spawn(self, reason: str, errno: int | None) -> None:
        message = self._spec.conceal(reason)
        self._teller.unborn(self._state.life, message, errno)
        self._spawn_refused(message)

    def _spawn_refused(self, message: str) -> None:
        if self._state.phase is Phase.SPAWNING:
            self._show(last_error=message, last_exit=None)
        self._step(Event.NO_SPAWN)

    def _spawned(self) -> None:
        life, self._newborn = self._newborn, None
        assert life is not None
        self._teller.born(self._view, life.identity, trio.current_time(), self._cause)
        self._tenure = self._new_tenure(life)
        self._attend(self._tenure)
        self._show(identity=life.identity, started_at=rfc3339(self._world.clock.wall()))
        self._step(Event.SPAWNED)
        if self._state.phase is Phase.STARTING:
            self._cause = None
            self._on_new_life(self._spec.name)
            self._check_up(life)

    def _new_tenure(self, life: Life) -> Tenure:
        return Tenure(life, on_exit=self._leader_exited, on_kill=self._grace_ran_out)

    def _attend(self, tenure: Tenure) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._see_through, tenure)
        if self._state.phase in {Phase.STARTING, Phase.RUNNING}:
            self._check_up(tenure.life)

    async def _see_through(self, tenure: Tenure) -> None:
        ended = await tenure.run()
        if ended.over and not isinstance(self._spec.runs, ProcessSpec):
            await tenure.bury()  # a dead container still has the name that the next one needs
        self._saw(partial(self._over, tenure, ended))
        if ended.over:
            # Once the component has taken that in, and begun the next life where there is to be one.
            for _ in range(PASSES_TO_BEGIN):
                await trio.lowlevel.cancel_shielded_checkpoint()
            await tenure.bury()

    def _grace_ran_out(self) -> None:
        self._teller.event("killed", self._state.life, reason=self._cause, message="still alive when the grace ran out")

    def _leader_exited(self, status: ExitStatus) -> None:
        """Have it remembered a turn later: mostly nothing else of the life is alive, and it is remembered
        together with what it leads to. Should the daemon die before, the history knows of the exit."""
        self._exit_seen(status)
        self._saw(lambda: None)

    def _exit_seen(self, status: ExitStatus) -> None:
        """Tell an exit, once, in the instant it is seen. What it leads to waits until all is dead."""
        state = self._state
        at = rfc3339(self._world.clock.wall())
        if self._told_exit is None:
            uptime = trio.current_time() - state.spawned_at if state.spawned_at is not None else None
            self._teller.exited(state.life, status, uptime)
        else:
            status, at = _status_in(self._told_exit), self._told_exit.at
        last_exit = ExitDocument(code=status.code, signal=status.signal, oom=status.oom, at=at)
        if state.phase in {Phase.STOPPING, Phase.FAILED, Phase.DOWN}:
            self._show(exited=True)  # asked for, or long given up
        elif state.phase is Phase.CONDEMNED or judge(status, self._spec.restart) is ExitVerdict.COMPLETE:
            # A probe's evidence says more than the signal that it led to.
            self._show(exited=True, last_exit=last_exit)
        else:
            self._show(exited=True, last_exit=last_exit, last_error=str(status), note=str(status))

    def _over(self, tenure: Tenure, ended: Ended) -> None:
        self._stop_checkup()
        self._tenure = None
        if ended.over:
            # Uptime, budget and backoff count from the exit, however long the rest took to die.
            self._step(self._exit_event(ended.status), tenure.exited_at)
        else:
            self._lingering = tenure
            self._show(survivors=ended.survivors)
            self._step(Event.SURVIVED)

    def _exit_event(self, status: ExitStatus | None) -> Event:
        """What an exit means under the policy. What the history says of it is believed first."""
        known = _status_in(self._told_exit) if self._told_exit is not None else status
        return EXIT_EVENTS[judge(known or ExitStatus(), self._spec.restart)]

    async def _outlive(self, tenure: Tenure) -> None:
        """Wait for the end of what could not be killed; until then no other life begins."""
        await tenure.wait_over()
        self._lingering = None
        self._show(survivors=(), identity=None, note="what could not be killed is gone; it can be started again")
        self._save()

    # Probes.

    def _check_up(self, life: Life) -> None:
        assert self._tasks is not None
        started = self._state.phase is Phase.RUNNING
        if not started and self._spec.startup is None:
            self._step(Event.STARTED)
            started = True
        if not self._spec.probes:
            return
        self._checkup = Checkup(
            self._spec, life, self._world, self._turns, on_attempt=self._attempted, on_impostor=self._impostor_seen
        )
        self._tasks.start_soon(self._checkup.run, started)

    def _stop_checkup(self) -> None:
        if self._checkup is not None:
            self._checkup.stop()
        self._checkup = None
        self._impostor = ""

    def _attempted(self, kind: ProbeKind, attempted: Streak) -> None:
        streak = replace(attempted, message=self._spec.conceal(attempted.message))
        self._show(probes=with_attempt(self._view, kind, streak, rfc3339(self._world.clock.wall())).probes)
        if kind is ProbeKind.STARTUP and streak.verdict is Verdict.PASSING:
            self._saw(partial(self._step, Event.STARTED))
        elif kind is not ProbeKind.READINESS and streak.verdict is Verdict.FAILING:
            times = f"{streak.consecutive_failures} times" if streak.consecutive_failures > 1 else "once"
            evidence = f"{kind.value} probe failed {times}: {streak.message}"
            self._saw(partial(self._condemn, Condemnation(probe=kind.value, evidence=evidence)))

    def _condemn(self, condemned: Condemnation) -> None:
        if self._state.phase in {Phase.STARTING, Phase.RUNNING}:
            self._condemned = condemned
            self._step(Event.UNHEALTHY)

    def _impostor_seen(self, sentence: str) -> None:
        self._impostor = sentence

    # After the death of an earlier daemon.

    async def _prove_life(self) -> None:
        """Find out what became of the life that an earlier daemon left, and go on from there."""
        identity, state = self._view.identity, self._state
        self._recall()
        if identity is None or identity.is_intent:
            self._show(identity=None)
            if state.phase in {Phase.STARTING, Phase.RUNNING, Phase.CONDEMNED}:
                self._found_dead()  # whatever the record named was not to be believed
            elif state.has_life:
                # The intent was written and nothing else: what came of it was ended as a stray.
                self._told_exit = self._find_told("exited")
                self._bury_unknown()
        elif (life := await self._adopt(identity)) is None:
            self._found_dead()
        elif state.phase is Phase.FAILED:
            self._told_exit = self._find_told("exited")
            self._lingering = self._new_tenure(life)
        elif state.has_life and life.is_alive():
            self._resume(life)
        else:
            await self._end_found(life)
        self._save()

    def _recall(self) -> None:
        """Know again why the life is being ended: the last daemon wrote it down."""
        if self._state.phase is Phase.STOPPING and (told := self._find_told("stopping")) is not None:
            self._cause = told.reason
        if self._state.phase is Phase.CONDEMNED and (told := self._find_told("unhealthy")) is not None:
            probe, evidence = str(told.details.get("probe", "")), str(told.details.get("evidence", ""))
            self._condemned = Condemnation(probe=probe, evidence=evidence)

    async def _end_found(self, life: Life) -> None:
        """A life that ended while no daemon watched and was not reaped yet, or that is not to be."""
        self._told_exit = self._find_told("exited")
        tenure = self._new_tenure(life)
        if life.is_alive():  # else it is over without our doing, and no grace of it ran out
            tenure.end(self._spec.stop, 0.0)
        ended = await tenure.run()
        if ended.over:
            await tenure.bury()
        else:
            self._lingering = tenure
            self._show(survivors=ended.survivors)
        if self._state.has_life:
            self._step(self._exit_event(ended.status) if ended.over else Event.SURVIVED)
        elif ended.over:
            self._show(identity=None)

    def _bury_unknown(self) -> None:
        """Account for a life that never got into the state, though it may have got into the history."""
        if self._find_told("starting") is not None:
            self._exit_seen(ExitStatus())
            self._step(Event.SPAWNED)
            self._step(self._exit_event(None))
        elif (refused := self._find_told("start_failed")) is not None:
            self._spawn_refused(refused.message)
        else:
            self._no_spawn(DIED_IN_SPAWN, None)

    async def _adopt(self, identity: Identity) -> Life | None:
        order = LaunchOrder(spec=self._spec, life=self._state.life, nonce=identity.nonce)
        while True:
            try:
                return await self._launcher.adopt(order, identity)
            except EngineUnavailableError as exc:
                self._show(note=str(exc))
                await trio.sleep(ENGINE_PERIOD)

    def _found_dead(self) -> None:
        self._told_exit = self._find_told("exited")
        self._exit_seen(ExitStatus())
        if not self._state.has_life:
            self._show(identity=None, survivors=())
            return
        self._step(self._exit_event(None))

    def _find_told(self, event: str) -> Entry | None:
        """What the last daemon said of the present life: it may have died before that was in the state."""
        return self._journal.former(self._spec.name, self._state.life, event)

    def _resume(self, life: Life) -> None:
        self._tenure = self._new_tenure(life)
        self._teller.event("adopted", self._state.life, pid=life.identity.pid, container=life.identity.container_id)
        is_ending = self._state.phase in {Phase.STOPPING, Phase.CONDEMNED}
        self._show(identity=life.identity, adopted=True, note=self._view.note if is_ending else "")
        if is_ending:
            self._tenure.end(self._spec.stop)


def _status_in(entry: Entry) -> ExitStatus:
    """The exit status in an event ``exited``, as far as it is one that makes sense."""
    code, signal, oom = (entry.details.get(key) for key in ("code", "signal", "oom"))
    return ExitStatus(
        code=code if isinstance(code, int) else None,
        signal=signal if isinstance(signal, str) else None,
        oom=oom if isinstance(oom, bool) else None,
    )


def _evidence(view: View) -> str:
    probe = view.probes.get(ProbeKind.READINESS)
    return probe.streak.message if probe is not None else ""
