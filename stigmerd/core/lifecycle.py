"""The lifecycle of a component, as a total table from (phase, event) to a named transition.

``step`` decides and touches nothing: it returns the next state and at most one command, which the
engine carries out. What has a payload (an exit status, a probe's evidence) is classified into an
event before it comes here. Instants are seconds on one monotonic clock. Readiness is no part of
this table: it never starts or ends a life.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import msgspec
from msgspec.structs import replace

from stigmerd.core.restart import EMPTY, RestartHistory
from stigmerd.core.spec import RestartPolicy, RestartWhen


class Phase(enum.Enum):
    """Where a component is. The values are the words of the status document, but for SPAWNING."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and every decision looks several up

    DOWN = "stopped"
    WAITING = "waiting"
    """Wanted, no life, and a gate (dependency, port, engine) is to be passed."""
    SPAWNING = "spawning"
    """A life was ordered and has not come to be yet; shown as starting."""
    STARTING = "starting"
    """Alive; the startup probe has not passed."""
    RUNNING = "running"
    CONDEMNED = "unhealthy"
    """A probe has condemned the life, which is being stopped."""
    STOPPING = "stopping"
    """Somebody asked for the end of this life."""
    BACKOFF = "restarting"
    FAILED = "failed"
    COMPLETED = "completed"


class Event(enum.Enum):
    """What can happen to a component."""

    __hash__ = object.__hash__

    UP = "up"
    """An operator, the daemon's start or a reload wants it up."""
    DOWN = "down"
    """An operator, a shutdown or a reload wants it down."""
    BOUNCE = "bounce"
    """A new life is wanted, by an operator or for a changed definition."""
    FOLLOW = "follow"
    """A dependency began a new life, and this component asked to be restarted with it."""
    OPEN = "open"
    """The gate is open: dependencies are as asked, the ports are free."""
    SHUT = "shut"
    """The gate is shut."""
    SPAWNED = "spawned"
    NO_SPAWN = "no_spawn"
    """No process or container came to be."""
    STARTED = "started"
    """The startup probe passed, or there is none."""
    UNHEALTHY = "unhealthy"
    """The startup or the liveness probe crossed its failure threshold."""
    EXITED = "exited"
    """The life is over, everything of it is dead, and policy would restart it."""
    EXITED_DONE = "exited_done"
    """The same, and policy calls it complete."""
    EXITED_BAD = "exited_bad"
    """The same, and policy forbids a restart."""
    EXITED_FATAL = "exited_fatal"
    """The same, with an exit code that says restarting cannot help."""
    SURVIVED = "survived"
    """Something of the life cannot be killed."""
    DEADLINE = "deadline"
    """``State.due`` has come."""


class Command(enum.Enum):
    """What the engine is to do next."""

    CHECK_GATE = "check_gate"
    LAUNCH = "launch"
    END = "end"


class FailedBecause(enum.Enum):
    """Why a component is in FAILED."""

    BUDGET = "budget"
    POLICY = "policy"
    FATAL_EXIT = "fatal_exit"
    UNKILLABLE = "unkillable"
    TRIAL = "trial"
    INTERNAL = "internal"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that the next decision depends on.

    ``wanted`` is the operator's last word. ``due`` is when DEADLINE comes, or None.
    ``spawned_at`` is the begin of the present life, ``life`` its number (the last one's, when
    there is none). ``charge`` says that the life to come is an automatic restart and is counted.
    ``trial`` marks the half-open life out of FAILED. ``restarts`` counts automatic ones.
    """

    phase: Phase = Phase.DOWN
    wanted: bool = False
    life: int = 0
    spawned_at: float | None = None
    due: float | None = None
    charge: bool = False
    trial: bool = False
    restarts: int = 0
    last_restart: float | None = None
    history: RestartHistory = EMPTY
    failed_because: FailedBecause | None = None

    @property
    def has_life(self) -> bool:
        """Whether a process or container of this component exists, or is about to."""
        return self.phase in LIVE_PHASES

    @property
    def shown(self) -> str:
        """The state's word in the status document."""
        return Phase.STARTING.value if self.phase is Phase.SPAWNING else self.phase.value


NEW = State()
"""A component that was never started."""

LIVE_PHASES = frozenset({Phase.SPAWNING, Phase.STARTING, Phase.RUNNING, Phase.CONDEMNED, Phase.STOPPING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One decision: the next state and at most one thing to do."""

    state: State
    command: Command | None = None


class ImpossibleEventError(Exception):
    """The engine sent an event that cannot happen in this phase: a bug in the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a transition may look at besides the state. ``chance`` in 0..1 feeds the jitter."""

    now: float
    policy: RestartPolicy
    chance: float = 0.0


Transition = Callable[[State, Context], Step]


# The transitions, each named for what it does.


def ignore(state: State, context: Context) -> Step:
    """Change nothing: the event has no meaning here, or came too late to have one."""
    return Step(state=state)


def impossible(state: State, context: Context) -> NoReturn:
    """Raise: the engine is not allowed to send this event now."""
    raise ImpossibleEventError(state.phase.name)


def come_up(state: State, context: Context) -> Step:
    """Ask the gate, with an empty budget: somebody wants this up."""
    fresh = replace(state, wanted=True, charge=False, trial=False, due=None, failed_because=None)
    return _gate(replace(fresh, history=state.history.emptied()))


def want(state: State, context: Context) -> Step:
    """Remember that it is wanted up; what is under way goes on. An empty budget comes with it."""
    return Step(state=replace(state, wanted=True, history=state.history.emptied(), trial=False, due=None))


def rest(state: State, context: Context) -> Step:
    """Stay without a life, wanted down."""
    state = replace(state, wanted=False, due=None, charge=False, trial=False)
    if state.failed_because is FailedBecause.UNKILLABLE:
        return Step(state=state)  # "stopped" would hide that something of it is alive
    return Step(state=replace(state, phase=Phase.DOWN, failed_because=None))


def end(state: State, context: Context) -> Step:
    """End the life; it is wanted down."""
    return Step(state=replace(state, phase=Phase.STOPPING, wanted=False, due=None, trial=False), command=Command.END)


def unwant(state: State, context: Context) -> Step:
    """The life is being ended already; afterwards it stays down."""
    return Step(state=replace(state, phase=Phase.STOPPING, wanted=False, trial=False))


def replace_life(state: State, context: Context) -> Step:
    """End the life to begin another, with an empty budget."""
    return Step(
        state=replace(state, phase=Phase.STOPPING, wanted=True, due=None, trial=False, history=state.history.emptied()),
        command=Command.END,
    )


def rewant(state: State, context: Context) -> Step:
    """The life is being ended already; afterwards another one begins, with an empty budget."""
    return Step(state=replace(state, phase=Phase.STOPPING, wanted=True, trial=False, history=state.history.emptied()))


def follow(state: State, context: Context) -> Step:
    """End the life to begin another with the dependency; the budget stays as it is."""
    return Step(state=replace(state, phase=Phase.STOPPING, due=None, trial=False), command=Command.END)


def wait(state: State, context: Context) -> Step:
    """The gate is shut: wait. The start after a wait is not counted as a restart."""
    return Step(state=replace(state, charge=False))


def launch(state: State, context: Context) -> Step:
    """Begin a life, and count it where it is an automatic restart."""
    state = replace(state, phase=Phase.SPAWNING, life=state.life + 1, spawned_at=None, due=None)
    if state.charge:
        state = replace(state, restarts=state.restarts + 1, last_restart=context.now)
    if state.charge and not state.trial:  # a trial is what is left when the budget is spent
        state = replace(state, history=state.history.count(context.policy, context.now))
    return Step(state=state, command=Command.LAUNCH)


def spawned(state: State, context: Context) -> Step:
    """The process is there; a trial is judged once it has lived ``min_uptime``."""
    due = context.now + context.policy.min_uptime if state.trial else None
    return Step(state=replace(state, phase=Phase.STARTING, spawned_at=context.now, due=due))


def spawned_unwanted(state: State, context: Context) -> Step:
    """The process came to be after its end was asked for: end it."""
    return Step(state=replace(state, spawned_at=context.now), command=Command.END)


def run(state: State, context: Context) -> Step:
    """The life has started."""
    return Step(state=replace(state, phase=Phase.RUNNING))


def condemn(state: State, context: Context) -> Step:
    """End the life because a probe says so; policy decides what follows."""
    return Step(state=replace(state, phase=Phase.CONDEMNED, due=None), command=Command.END)


def recover(state: State, context: Context) -> Step:
    """The trial has lived long enough: the component is running, with an empty budget."""
    return Step(state=replace(state, trial=False, due=None, history=state.history.emptied()))


def crashed(state: State, context: Context) -> Step:
    """The life is over and policy would restart it: back off, unless the budget is spent."""
    state = _bury(state, context)
    if state.trial:
        return _fail(state, context, FailedBecause.TRIAL)
    if state.history.is_spent(context.policy, context.now):
        return _fail(state, context, FailedBecause.BUDGET)
    history = state.history.back_off(context.policy, context.chance)
    return Step(
        state=replace(
            state, phase=Phase.BACKOFF, charge=True, history=history, due=context.now + (history.delay or 0.0)
        )
    )


def fell(state: State, context: Context) -> Step:
    """A life that a probe condemned, or that never came to be: a failure, whatever the exit status."""
    if context.policy.when is RestartWhen.NEVER:
        return give_up(state, context)
    return crashed(state, context)


def complete(state: State, context: Context) -> Step:
    """The life is over and its work is done."""
    return Step(state=replace(_bury(state, context), phase=Phase.COMPLETED, due=None, trial=False, charge=False))


def give_up(state: State, context: Context) -> Step:
    """The life is over, and policy forbids a restart."""
    return _fail(_bury(state, context), context, FailedBecause.POLICY)


def give_up_for_good(state: State, context: Context) -> Step:
    """The life is over with a fatal exit code: no restart and no trial can help."""
    return _fail(_bury(state, context), context, FailedBecause.FATAL_EXIT)


def reaped(state: State, context: Context) -> Step:
    """The life that was to end is over: stay down, or begin the next one."""
    state = _bury(state, context)
    return _gate(replace(state, charge=False, due=None)) if state.wanted else rest(state, context)


def strand(state: State, context: Context) -> Step:
    """Something of the life cannot be killed: fail, and begin no other life."""
    return _fail(replace(state, spawned_at=None), context, FailedBecause.UNKILLABLE)


def ask_gate(state: State, context: Context) -> Step:
    """The backoff is over: ask the gate."""
    return _gate(replace(state, due=None))


def try_again(state: State, context: Context) -> Step:
    """Leave FAILED for one half-open trial."""
    return _gate(replace(state, due=None, charge=True, trial=True, failed_because=None))


def _gate(state: State) -> Step:
    return Step(state=replace(state, phase=Phase.WAITING), command=Command.CHECK_GATE)


def _bury(state: State, context: Context) -> State:
    """Account for the life that just ended."""
    if state.spawned_at is None:
        return state
    uptime = context.now - state.spawned_at
    state = replace(state, spawned_at=None, history=state.history.after_life(uptime, context.policy))
    if state.trial and uptime >= context.policy.min_uptime:
        return replace(state, trial=False, history=state.history.emptied())
    return state


def _fail(state: State, context: Context, because: FailedBecause) -> Step:
    hopeless = because in {FailedBecause.FATAL_EXIT, FailedBecause.UNKILLABLE}
    recovery = None if hopeless else context.policy.recovery
    return Step(
        state=replace(
            state,
            phase=Phase.FAILED,
            charge=False,
            trial=False,
            due=context.now + recovery if recovery is not None else None,
            failed_because=because,
        )
    )


def under_policy(state: State, since: float, policy: RestartPolicy) -> State:
    """The state once another policy holds: what is failed ``since`` then waits for its trial under that one."""
    if state.phase is not Phase.FAILED or state.failed_because is None:
        return state
    return _fail(state, Context(now=since, policy=policy), state.failed_because).state


TRANSITIONS: Mapping[Phase, Mapping[Event, Transition]] = {
    Phase.DOWN: {
        Event.UP: come_up,
        Event.DOWN: ignore,
        Event.BOUNCE: come_up,
        Event.FOLLOW: ignore,
        Event.OPEN: ignore,  # the gate opened in the instant of the stop
        Event.SHUT: ignore,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: ignore,  # a verdict was in flight
        Event.UNHEALTHY: ignore,
        Event.EXITED: impossible,
        Event.EXITED_DONE: impossible,
        Event.EXITED_BAD: impossible,
        Event.EXITED_FATAL: impossible,
        Event.SURVIVED: impossible,
        Event.DEADLINE: ignore,
    },
    Phase.WAITING: {
        Event.UP: come_up,
        Event.DOWN: rest,
        Event.BOUNCE: come_up,
        Event.FOLLOW: ignore,  # the life to come begins with the dependency anyway
        Event.OPEN: launch,
        Event.SHUT: wait,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: ignore,
        Event.UNHEALTHY: ignore,
        Event.EXITED: impossible,
        Event.EXITED_DONE: impossible,
        Event.EXITED_BAD: impossible,
        Event.EXITED_FATAL: impossible,
        Event.SURVIVED: impossible,
        Event.DEADLINE: ignore,
    },
    Phase.SPAWNING: {
        Event.UP: want,
        Event.DOWN: unwant,  # ended as soon as it is there
        Event.BOUNCE: want,  # the life to come is newer than the request
        Event.FOLLOW: ignore,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: spawned,
        Event.NO_SPAWN: fell,
        Event.STARTED: ignore,
        Event.UNHEALTHY: ignore,
        Event.EXITED: impossible,
        Event.EXITED_DONE: impossible,
        Event.EXITED_BAD: impossible,
        Event.EXITED_FATAL: impossible,
        Event.SURVIVED: impossible,
        Event.DEADLINE: ignore,
    },
    Phase.STARTING: {
        Event.UP: want,
        Event.DOWN: end,
        Event.BOUNCE: replace_life,
        Event.FOLLOW: follow,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: run,
        Event.UNHEALTHY: condemn,
        Event.EXITED: crashed,
        Event.EXITED_DONE: complete,
        Event.EXITED_BAD: give_up,
        Event.EXITED_FATAL: give_up_for_good,
        Event.SURVIVED: strand,
        Event.DEADLINE: recover,
    },
    Phase.RUNNING: {
        Event.UP: want,
        Event.DOWN: end,
        Event.BOUNCE: replace_life,
        Event.FOLLOW: follow,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: ignore,
        Event.UNHEALTHY: condemn,
        Event.EXITED: crashed,
        Event.EXITED_DONE: complete,
        Event.EXITED_BAD: give_up,
        Event.EXITED_FATAL: give_up_for_good,
        Event.SURVIVED: strand,
        Event.DEADLINE: recover,
    },
    Phase.CONDEMNED: {
        Event.UP: rewant,
        Event.DOWN: unwant,
        Event.BOUNCE: rewant,
        Event.FOLLOW: ignore,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: ignore,
        Event.UNHEALTHY: ignore,
        Event.EXITED: fell,
        Event.EXITED_DONE: fell,
        Event.EXITED_BAD: fell,
        Event.EXITED_FATAL: give_up_for_good,
        Event.SURVIVED: strand,
        Event.DEADLINE: ignore,
    },
    Phase.STOPPING: {
        Event.UP: rewant,
        Event.DOWN: unwant,
        Event.BOUNCE: rewant,
        Event.FOLLOW: ignore,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: spawned_unwanted,
        Event.NO_SPAWN: reaped,
        Event.STARTED: ignore,  # a probe's verdict was in flight
        Event.UNHEALTHY: ignore,
        Event.EXITED: reaped,
        Event.EXITED_DONE: reaped,
        Event.EXITED_BAD: reaped,
        Event.EXITED_FATAL: reaped,
        Event.SURVIVED: strand,
        Event.DEADLINE: ignore,
    },
    Phase.BACKOFF: {
        Event.UP: come_up,
        Event.DOWN: rest,
        Event.BOUNCE: come_up,
        Event.FOLLOW: ignore,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: ignore,
        Event.UNHEALTHY: ignore,
        Event.EXITED: impossible,
        Event.EXITED_DONE: impossible,
        Event.EXITED_BAD: impossible,
        Event.EXITED_FATAL: impossible,
        Event.SURVIVED: impossible,
        Event.DEADLINE: ask_gate,
    },
    Phase.FAILED: {
        Event.UP: come_up,
        Event.DOWN: rest,
        Event.BOUNCE: come_up,
        Event.FOLLOW: ignore,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: ignore,
        Event.UNHEALTHY: ignore,
        Event.EXITED: impossible,
        Event.EXITED_DONE: impossible,
        Event.EXITED_BAD: impossible,
        Event.EXITED_FATAL: impossible,
        Event.SURVIVED: impossible,
        Event.DEADLINE: try_again,
    },
    Phase.COMPLETED: {
        Event.UP: come_up,
        Event.DOWN: rest,
        Event.BOUNCE: come_up,
        Event.FOLLOW: ignore,
        Event.OPEN: ignore,
        Event.SHUT: ignore,
        Event.SPAWNED: impossible,
        Event.NO_SPAWN: impossible,
        Event.STARTED: ignore,
        Event.UNHEALTHY: ignore,
        Event.EXITED: impossible,
        Event.EXITED_DONE: impossible,
        Event.EXITED_BAD: impossible,
        Event.EXITED_FATAL: impossible,
        Event.SURVIVED: impossible,
        Event.DEADLINE: ignore,
    },
}


TIMED_PHASES = frozenset(phase for phase, row in TRANSITIONS.items() if row[Event.DEADLINE] is not ignore)
"""Where a deadline leads somewhere. Anywhere else a state has none."""


def step(state: State, event: Event, now: float, policy: RestartPolicy, chance: float = 0.0) -> Step:
    """Decide what ``event`` at ``now`` does to a component in ``state``.

    Raises:
        ImpossibleEventError: the event cannot happen in this phase.
    """
    return TRANSITIONS[state.phase][event](state, Context(now=now, policy=policy, chance=chance))
