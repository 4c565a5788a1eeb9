"""The task that owns one component: it takes in messages, asks the lifecycle table, and does what that says.

Each message is decided on, shown on the board and remembered before anything is awaited. Tasks that
belong to one life, or to one phase, live in a nursery that ends with it, and come back through the mailbox.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec
import trio

from stigmerd.core.event import Entry
from stigmerd.core.exit_status import Consequence, ExitStatus, judge
from stigmerd.core.health import Streak, Verdict
from stigmerd.core.instant import rfc3339
from stigmerd.core.lifecycle import Command, Event, FailedBecause, Phase, State, step, under_policy
from stigmerd.core.record import Identity
from stigmerd.core.spec import ComponentSpec, ProbeKind, ProcessSpec
from stigmerd.core.status import ExitDocument
from stigmerd.engine.board import Board, View, with_attempt
from stigmerd.engine.checkup import Checkup
from stigmerd.engine.course import Course
from stigmerd.engine.gate import Gate, is_always_open
from stigmerd.engine.inheritance import Alive, Dead, Intent, LastWords, Nothing, Remains, Unkillable, find
from stigmerd.engine.journal import Journal
from stigmerd.engine.launch import Launch, Unborn
from stigmerd.engine.life import Ended, Tenure
from stigmerd.engine.mailbox import Ask, Mailbox, Respec, Seen
from stigmerd.engine.ports import Launcher, LaunchOrder, Life, Shut, World
from stigmerd.engine.restore import DIED_IN_SPAWN, to_record, unborn_view
from stigmerd.engine.telling import Condemnation, Teller, condemnation, told_status, told_uptime
from stigmerd.engine.turns import Turns

PASSES_TO_BEGIN = 2
"""Passes of the scheduler after which a message to a component has certainly been taken in: within one pass,
Trio runs tasks in random order."""

MERGE_WINDOW = 0.25
"""Seconds from the begin of a life that a restart asked for, in which one more restart means that same
life: ten restarts asked for at once are one, and who asks after that gets another."""

SURVIVORS_GONE = "what could not be killed is gone; it can be started again"

EXIT_EVENTS = {
    Consequence.RESTART: Event.EXITED,
    Consequence.COMPLETE: Event.EXITED_DONE,
    Consequence.FAIL: Event.EXITED_BAD,
    Consequence.FATAL: Event.EXITED_FATAL,
}


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
        self._mailbox = Mailbox()
        self._tasks: trio.Nursery | None = None
        """Of the present life."""
        self._course = Course()
        self._lingering: Tenure | None = None
        """Of a life that could not be killed."""
        self._cause: str | None = None
        """Why the component is about to change, in the history's word."""
        self._cap: float | None = None
        self._is_renewal_due = False
        self._shut: Shut | None = None
        """What it waits for, since it has a reason to wait."""
        self.proven = trio.Event()
        """Set once it is known what became of the life that an earlier daemon left, if any."""
        if restored is None:
            self.proven.set()
        self._unsaved = restored is None
        self._rests_for_shutdown = False
        """Whether the present view is not to be remembered yet: a shutdown keeps a component without a life from
        having one, and should the daemon die in that shutdown the next one is to go on from before it."""
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
    def is_retired(self) -> bool:
        """Whether it has left the configuration: it takes nothing in any more."""
        return self._mailbox.is_closed

    @property
    def life(self) -> Life | None:
        """The present life, to look at and to signal its leader."""
        return self._course.tenure.life if self._course.tenure is not None else None

    @property
    def stranger(self) -> str:
        """One sentence about a stranger who has this component's port, or answers in its place; or ""."""
        if self._state.phase is Phase.WAITING and self._shut is not None and self._shut.reason == "port":
            return f"{self.name}: {self._shut.message}"
        return self._course.stranger

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
        await self._mailbox.deliver(Ask(event=event, reason=reason, cap=cap, returns=returns, resumes=resumes))
        return self._view

    async def respec(self, spec: ComponentSpec, *, returns: bool) -> None:
        """Let a changed configuration take effect, without a new life. ``returns``: a start follows."""
        await self._mailbox.deliver(Respec(spec=spec, returns=returns))

    def retire(self) -> None:
        """Take nothing in any more: whoever still asks gets the component as it is."""
        self._mailbox.close()

    def remember_rest(self) -> None:
        """Have it remembered that it rests: the shutdown came to its end."""
        self._rests_for_shutdown = False
        self._save()

    def follow(self) -> None:
        """Tell that a dependency began a new life."""
        self._mailbox.post(Ask(event=Event.FOLLOW, reason="dependency"))

    # The task.

    async def run(self) -> None:
        """Own the component until cancelled. May be run again after an internal error."""
        try:
            async with trio.open_nursery() as beyond:
                if not self.proven.is_set():
                    await self._prove_life()
                    self.proven.set()
                while True:
                    if self._lingering is not None:
                        beyond.start_soon(self._outlive, self._lingering)
                    await self._phases_without_life()
                    await self._one_life()
        finally:
            self._teller.write_last_line()

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
        self._mailbox.dismiss()

    async def _end_at_once(self) -> None:
        tenure, launch = self._course.tenure, self._course.launch
        if launch is not None and not launch.is_awaited:
            await launch.wait()
        if launch is not None and launch.newborn is not None:
            tenure = self._new_tenure(launch.newborn)
        if tenure is not None:
            tenure.end(self._spec.stop, 0.0)
            ended = await tenure.run()
            self._lingering = None if ended.over else tenure
        self._course = Course()

    async def _phases_without_life(self) -> None:
        while not self._state.has_life:
            if self._state.phase is not Phase.WAITING:
                await self._next_message()
                continue
            async with trio.open_nursery() as looks:
                spec = self._spec
                gate = Gate(spec, self._board, self._launcher, self._bar)
                looks.start_soon(gate.watch, lambda shut: self._saw(partial(self._gate_seen, shut)))
                while self._state.phase is Phase.WAITING and self._spec is spec:
                    await self._next_message()
                looks.cancel_scope.cancel()

    async def _one_life(self) -> None:
        """Everything that concerns one life happens in this nursery, and ends with it."""
        number = self._state.life
        async with trio.open_nursery() as self._tasks:
            if self._course.tenure is None:
                self._begin_life()  # unless that was done already; before a stop is heard, in any case
                self._tasks.start_soon(self._await_birth)
            else:
                self._attend(self._course.tenure)  # adopted
            while self._state.has_life and self._state.life == number:
                await self._next_message()
            self._tasks.cancel_scope.cancel()

    # Messages in.

    def _saw(self, then: Callable[[], None]) -> None:
        self._mailbox.post(Seen(life=self._state.life, then=then))

    async def _next_message(self) -> None:
        """Take in one message, or the deadline, whichever comes first."""
        match await self._mailbox.take(self._state.due):
            case None:
                self._step(Event.DEADLINE)
            case (Ask() | Respec()) as wish:
                try:  # whoever asked goes on, be it with what a bug has left
                    self._take(wish) if isinstance(wish, Ask) else self._take_spec(wish.spec, wish.returns)
                finally:
                    wish.taken.set()
            case Seen() as seen:
                if seen.life == self._state.life:
                    seen.then()
                if self._mailbox.has_mail and self._state.phase is not Phase.SPAWNING:
                    return  # it is remembered with what comes next, before anything is awaited
        self._save()
        self._begin_life()
        self._teller.write_last_line()

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
        self._rests_for_shutdown = ask.reason == "shutdown" and not before.has_life
        if ask.event is Event.DOWN:
            self._course.hasten(self._spec.stop, ask.cap)

    def _is_just_renewed(self) -> bool:
        spawned_at, now = self._state.spawned_at, trio.current_time()
        young = spawned_at is not None and now - spawned_at < MERGE_WINDOW
        return young and self._course.is_renewal and self._state.phase in {Phase.STARTING, Phase.RUNNING}

    def _take_spec(self, spec: ComponentSpec, returns: bool) -> None:
        before, state = self._spec, self._state
        former = before.restart.recovery
        if spec.restart.recovery != former:
            since = trio.current_time() if former is None or state.due is None else state.due - former
            state = under_policy(state, since, spec.restart)
        self._world.logs.rule(spec.name, spec.log)
        self._definition = spec.definition
        self._show(spec=spec, state=state, returns=returns or self._view.returns)
        same = {kind for kind, probe in spec.probes.items() if before.probes.get(kind) == probe}
        probes_changed = same != spec.probes.keys() | before.probes.keys()
        if probes_changed and self.life is not None and self._state.phase in {Phase.STARTING, Phase.RUNNING}:
            self._course.stop_checkup()
            self._show(probes={kind: told for kind, told in self._view.probes.items() if kind in same})
            self._check_up(self.life)

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
        state = decided.state
        if state.phase is Phase.DOWN and self._lingering is not None:  # what is alive is not stopped
            state = msgspec.structs.replace(state, phase=Phase.FAILED, failed_because=FailedBecause.UNKILLABLE)
        if state.phase is not self._state.phase:
            self._enter(state)
        else:
            self._show(state=state)
        if self._is_backoff_over():
            self._step(Event.DEADLINE)
        elif decided.command is Command.CHECK_GATE and is_always_open(self._spec) and self._bar() is None:
            self._step(Event.OPEN)
        elif decided.command is Command.END:
            self._course.end(self._spec.stop, self._cap)

    def _is_backoff_over(self) -> bool:
        """Whether the next life may begin in this very step, and be remembered in one record with the end
        of the last one, unless somebody has asked for something meanwhile."""
        state = self._state
        is_due = state.due is not None and state.due <= trio.current_time()
        return state.phase is Phase.BACKOFF and is_due and not self._mailbox.has_mail

    def _enter(self, new: State) -> None:
        """Enter a phase: written down first, visible only then."""
        now = trio.current_time()
        note = self._teller.entered(self._view, new, now, cause=self._cause, condemned=self._course.condemned)
        changes: dict[str, object] = {"state": new, "note": note, "blocked_by": None}
        if new.phase is Phase.SPAWNING:
            nonce = f"{new.life}-{secrets.token_hex(12)}"
            intent = Identity(nonce=nonce, boot_id=self._world.boot_id)
            changes |= {"identity": intent, "probes": {}, "adopted": False, "exited": False}
            self._course, self._is_renewal_due = Course(is_renewal=self._is_renewal_due), False
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
        if self._unsaved and not self._rests_for_shutdown:
            self._unsaved = False
            now = trio.current_time()
            self._world.state.put(to_record(self._view, self._definition, now, self._world.clock))

    # The gate.

    def _bar(self) -> Shut | None:
        """What forbids any life for now, whatever the configuration asks for."""
        if self._is_closing():
            return Shut(reason="shutdown", message="the daemon is shutting down")
        if self._lingering is not None:
            pids = ", ".join(f"pid {pid}" for pid in self._view.survivors)
            return Shut(reason="unkillable", message=f"waiting for the end of its last life ({pids})")
        return None

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
        course, identity = self._course, self._view.identity
        if self._state.phase is Phase.SPAWNING and course.launch is None and identity is not None:
            order = LaunchOrder(spec=self._spec, life=self._state.life, nonce=identity.nonce)
            course.launch = Launch(self._launcher, order)
            course.launch.begin()

    async def _await_birth(self) -> None:
        assert self._course.launch is not None
        came = await self._course.launch.wait()
        self._saw(partial(self._no_spawn, came) if isinstance(came, Unborn) else partial(self._spawned, came))

    def _no_spawn(self, unborn: Unborn) -> None:
        message = self._spec.conceal(unborn.message)
        self._teller.unborn(self._state.life, message, unborn.errno)
        self._spawn_refused(message)

    def _spawn_refused(self, message: str) -> None:
        if self._state.phase is Phase.SPAWNING:
            self._show(last_error=message, last_exit=None)
        self._step(Event.NO_SPAWN)

    def _spawned(self, life: Life) -> None:
        self._teller.born(self._view, life.identity, trio.current_time(), self._cause)
        self._course.launch, self._course.tenure = None, self._new_tenure(life)
        self._attend(self._course.tenure)
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
        if not self.proven.is_set():
            self._teller.write_last_line()  # no order follows, and what is left of the life may take long to die
        self._saw(lambda: None)

    def _exit_seen(self, status: ExitStatus) -> None:
        """Tell an exit, once, in the instant it is seen. What it leads to waits until all is dead."""
        state = self._state
        at = rfc3339(self._world.clock.wall())
        if (told := self._course.told_exit) is None:
            uptime = trio.current_time() - state.spawned_at if state.spawned_at is not None else None
            self._teller.exited(state.life, status, uptime)
        else:
            status, at = told_status(told), told.at
        last_exit = ExitDocument(code=status.code, signal=status.signal, oom=status.oom, at=at)
        if state.phase in {Phase.STOPPING, Phase.FAILED, Phase.DOWN}:
            self._show(exited=True)  # asked for, or long given up
        elif state.phase is Phase.CONDEMNED or judge(status, self._spec.restart) is Consequence.COMPLETE:
            # A probe's evidence says more than the signal that it led to.
            self._show(exited=True, last_exit=last_exit)
        else:
            self._show(exited=True, last_exit=last_exit, last_error=str(status), note=str(status))

    def _over(self, tenure: Tenure, ended: Ended) -> None:
        self._course.close()
        if ended.over:
            # Uptime, budget and backoff count from the exit, however long the rest took to die.
            self._step(self._exit_event(ended.status), tenure.exited_at)
        else:
            self._lingering = tenure
            self._show(survivors=ended.survivors)
            self._step(Event.SURVIVED)

    def _exit_event(self, status: ExitStatus | None) -> Event:
        """What an exit means under the policy. What the history says of it is believed first."""
        told = self._course.told_exit
        known = told_status(told) if told is not None else status
        return EXIT_EVENTS[judge(known or ExitStatus(), self._spec.restart)]

    async def _outlive(self, tenure: Tenure) -> None:
        """Wait for the end of what could not be killed; until then no other life begins."""
        await tenure.wait_over()
        self._lingering = None
        self._show(survivors=(), identity=None, note=SURVIVORS_GONE)
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
        earlier = {kind: told.streak for kind, told in self._view.probes.items()}
        checkup = Checkup(
            self._spec, life, self._world, self._turns, on_attempt=self._attempted, earlier=earlier
        )
        self._course.checkup = checkup
        self._tasks.start_soon(checkup.run, started)

    def _attempted(self, kind: ProbeKind, attempted: Streak) -> None:
        streak = replace(attempted, message=self._spec.conceal(attempted.message))
        self._show(probes=with_attempt(self._view, kind, streak, rfc3339(self._world.clock.wall())).probes)
        if kind is ProbeKind.STARTUP and streak.verdict is Verdict.PASSING:
            self._saw(partial(self._step, Event.STARTED))
        elif (condemned := condemnation(kind, streak)) is not None:
            self._saw(partial(self._condemn, condemned))

    def _condemn(self, condemned: Condemnation) -> None:
        if self._state.phase in {Phase.STARTING, Phase.RUNNING}:
            self._course.condemned = condemned
            self._step(Event.UNHEALTHY)

    # After the death of an earlier daemon.

    async def _prove_life(self) -> None:
        """Find out what became of the life that an earlier daemon left, and go on from there."""
        words = LastWords({}, self._state.phase)
        if self._state.phase in {Phase.STOPPING, Phase.CONDEMNED}:
            words = await LastWords.read(self._journal, self._view)
            self._cause, self._course.condemned = words.cause, words.condemned
        found = await find(self._view, self._launcher, on_delay=lambda why: self._show(note=why))
        if not isinstance(found, Nothing | Alive):
            words = await LastWords.read(self._journal, self._view)
            self._date_end(words.exit)
        match found:
            case Nothing():
                self._show(identity=None)
            case Intent():
                self._bury_unknown(words)
            case Dead():
                self._found_dead()
            case Alive(life):
                self._resume(life)
            case Remains(life):
                await self._end_found(life)
            case Unkillable(life):
                self._lingering = self._new_tenure(life)
        self._save()
        self._teller.write_last_line()

    def _date_end(self, told: Entry | None) -> None:
        """A life that ended while no daemon watched lasted nobody knows how long, unless the last one wrote it down."""
        self._course.told_exit = told
        uptime = told_uptime(told) if told is not None else None
        if uptime is None or self._state.spawned_at is None:
            self._show(state=msgspec.structs.replace(self._state, spawned_at=None))
        else:
            self._course.ended_at = min(self._state.spawned_at + uptime, trio.current_time())

    async def _end_found(self, life: Life) -> None:
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
            self._step(self._exit_event(ended.status) if ended.over else Event.SURVIVED, self._course.ended_at)
        elif ended.over:
            self._show(identity=None)

    def _bury_unknown(self, words: LastWords) -> None:
        """Account for a life that never got into the state, though it may have got into the history."""
        self._show(identity=None)
        if words.is_born:
            self._exit_seen(ExitStatus())
            self._step(Event.SPAWNED)
            self._step(self._exit_event(None))
        elif (refusal := words.refusal) is not None:
            self._spawn_refused(refusal)
        else:
            self._no_spawn(Unborn(message=DIED_IN_SPAWN))

    def _found_dead(self) -> None:
        self._exit_seen(ExitStatus())
        if self._state.has_life:
            self._step(self._exit_event(None), self._course.ended_at)
        else:
            is_unkillable = self._state.failed_because is FailedBecause.UNKILLABLE
            self._show(identity=None, survivors=(), note=SURVIVORS_GONE if is_unkillable else self._view.note)

    def _resume(self, life: Life) -> None:
        self._course.tenure = self._new_tenure(life)
        self._teller.event("adopted", self._state.life, pid=life.identity.pid, container=life.identity.container_id)
        is_ending = self._state.phase in {Phase.STOPPING, Phase.CONDEMNED}
        self._show(identity=life.identity, adopted=True, note=self._view.note if is_ending else "")
        if is_ending:
            self._course.tenure.end(self._spec.stop)


def _evidence(view: View) -> str:
    probe = view.probes.get(ProbeKind.READINESS)
    return probe.streak.message if probe is not None else ""
