"""What the lifecycle has to do, written down a second time: by event instead of by cell.

The table says for each cell which named transition happens. This model says for each *event* what
it means, in the words of the contract, and computes the whole outcome. A table that differs from
it anywhere, in any of the sampled states, is wrong; so is a model that differs from the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

from msgspec.structs import replace

from stigmerd.core.lifecycle import (
    Command,
    Context,
    Event,
    FailedBecause,
    ImpossibleEventError,
    Phase,
    State,
    Step,
    Transition,
)
from stigmerd.core.restart import RestartHistory
from stigmerd.core.spec import RestartPolicy, RestartWhen

NOW = 1000.0
LIFELESS = {Phase.DOWN, Phase.WAITING, Phase.BACKOFF, Phase.FAILED, Phase.COMPLETED}
ALIVE = {Phase.STARTING, Phase.RUNNING}
ENDING = {Phase.CONDEMNED, Phase.STOPPING}
EXITS = {Event.EXITED, Event.EXITED_DONE, Event.EXITED_BAD, Event.EXITED_FATAL}


def find_violation(transitions: Mapping[Phase, Mapping[Event, Transition]]) -> str | None:
    """The first cell in which ``transitions`` does something else than the model, in words, or None."""
    for state, policy in samples():
        context = Context(now=NOW, policy=policy)
        for event in Event:
            wanted = model(state, event, policy)
            try:
                got = transitions[state.phase][event](state, context)
            except ImpossibleEventError:
                got = None
            if got != wanted:
                return f"{state.phase.name} + {event.name}: {got} instead of {wanted}"
    return None


def samples() -> Iterator[tuple[State, RestartPolicy]]:
    """States of every phase, with each thing a transition may look at both ways."""
    spent = RestartHistory(counted=tuple(NOW - 10 + i for i in range(3)), streak=3, delay=4.0)
    some = RestartHistory(counted=(NOW - 10,), streak=1, delay=1.0)
    policies = (
        RestartPolicy(max_restarts=3, recovery=30.0),
        RestartPolicy(max_restarts=3, when=RestartWhen.NEVER),
    )
    for phase, policy, wanted, trial, history in product(Phase, policies, (True, False), (True, False), (spent, some)):
        lived: tuple[float | None, ...] = (None,) if phase in LIFELESS | {Phase.SPAWNING} else (NOW - 0.1, NOW - 50)
        for spawned_at in lived:
            for charge, because in ((True, None), (False, FailedBecause.UNKILLABLE if phase is Phase.FAILED else None)):
                yield (
                    State(
                        phase=phase,
                        wanted=wanted,
                        life=4,
                        spawned_at=spawned_at,
                        due=NOW,
                        charge=charge,
                        trial=trial,
                        restarts=2,
                        history=history,
                        failed_because=because,
                    ),
                    policy,
                )


def model(state: State, event: Event, policy: RestartPolicy) -> Step | None:
    """The whole outcome of ``event``; None where it cannot happen."""
    if not _is_possible(state.phase, event):
        return None
    match event:
        case Event.UP | Event.BOUNCE:
            return _asked_up(state, event)
        case Event.DOWN:
            return _asked_down(state)
        case Event.FOLLOW if state.phase in ALIVE:
            return _end(replace(state, due=None))
        case Event.OPEN if state.phase is Phase.WAITING:
            return _launch(state, policy)
        case Event.SHUT if state.phase is Phase.WAITING:
            return Step(state=replace(state, charge=False))
        case Event.SPAWNED if state.phase is Phase.SPAWNING:
            due = NOW + policy.min_uptime if state.trial else None
            return Step(state=replace(state, phase=Phase.STARTING, spawned_at=NOW, due=due))
        case Event.SPAWNED:
            return Step(state=replace(state, spawned_at=NOW), command=Command.END)
        case Event.STARTED if state.phase is Phase.STARTING:
            return Step(state=replace(state, phase=Phase.RUNNING))
        case Event.UNHEALTHY if state.phase in ALIVE:
            return Step(state=replace(state, phase=Phase.CONDEMNED, due=None), command=Command.END)
        case Event.SURVIVED:
            return _failed(replace(state, spawned_at=None), policy, FailedBecause.UNKILLABLE)
        case Event.DEADLINE:
            return _deadline(state)
        case _ if event in EXITS or event is Event.NO_SPAWN:
            return _over(state, event, policy)
        case _:
            return Step(state=state)


def _is_possible(phase: Phase, event: Event) -> bool:
    """A life has to be there to end, and must not be there to come to be."""
    if event in {Event.SPAWNED, Event.NO_SPAWN}:
        return phase in {Phase.SPAWNING, Phase.STOPPING}
    if event in EXITS or event is Event.SURVIVED:
        return phase in ALIVE | ENDING
    return True


def _asked_up(state: State, event: Event) -> Step:
    if state.phase in LIFELESS:
        fresh = replace(state, wanted=True, charge=False, trial=False, due=None, failed_because=None)
        return _gate(replace(fresh, history=_emptied(state)))
    if state.phase in ENDING:
        return Step(state=replace(state, phase=Phase.STOPPING, wanted=True, trial=False, history=_emptied(state)))
    wanted = replace(state, wanted=True, trial=False, due=None, history=_emptied(state))
    if event is Event.UP or state.phase is Phase.SPAWNING:
        return Step(state=wanted)
    return _end(wanted)


def _asked_down(state: State) -> Step:
    if state.phase is Phase.DOWN:
        return Step(state=state)
    if state.phase in LIFELESS:
        return _down(state)
    if state.phase in ALIVE:
        return _end(replace(state, wanted=False, due=None))
    return Step(state=replace(state, phase=Phase.STOPPING, wanted=False, trial=False))


def _deadline(state: State) -> Step:
    if state.phase is Phase.BACKOFF:
        return _gate(replace(state, due=None))
    if state.phase is Phase.FAILED:
        return _gate(replace(state, due=None, charge=True, trial=True, failed_because=None))
    if state.phase in ALIVE:
        return Step(state=replace(state, trial=False, due=None, history=_emptied(state)))
    return Step(state=state)


def _launch(state: State, policy: RestartPolicy) -> Step:
    born = replace(state, phase=Phase.SPAWNING, life=state.life + 1, spawned_at=None, due=None)
    if state.charge:
        born = replace(born, restarts=state.restarts + 1, last_restart=NOW)
    if state.charge and not state.trial:
        counted = tuple(at for at in state.history.counted if NOW - at <= policy.window)
        born = replace(born, history=replace(state.history, counted=(*counted, NOW)))
    return Step(state=born, command=Command.LAUNCH)


def _over(state: State, event: Event, policy: RestartPolicy) -> Step:
    stopping = state.phase is Phase.STOPPING
    state = _buried(state, policy)
    if stopping:
        return _gate(replace(state, charge=False, due=None)) if state.wanted else _down(state)
    if event is Event.EXITED_FATAL:
        return _failed(state, policy, FailedBecause.FATAL_EXIT)
    fell = event is Event.NO_SPAWN or state.phase is Phase.CONDEMNED
    if event is Event.EXITED_DONE and not fell:
        return Step(state=replace(state, phase=Phase.COMPLETED, due=None, trial=False, charge=False))
    if (event is Event.EXITED_BAD and not fell) or (fell and policy.when is RestartWhen.NEVER):
        return _failed(state, policy, FailedBecause.POLICY)
    if state.trial:
        return _failed(state, policy, FailedBecause.TRIAL)
    if len([at for at in state.history.counted if NOW - at <= policy.window]) >= policy.max_restarts:
        return _failed(state, policy, FailedBecause.BUDGET)
    streak = state.history.streak + 1
    delay = min(1.0 * 2.0 ** (streak - 1), 60.0)
    history = replace(state.history, streak=streak, delay=delay)
    return Step(state=replace(state, phase=Phase.BACKOFF, charge=True, history=history, due=NOW + delay))


def _buried(state: State, policy: RestartPolicy) -> State:
    if state.spawned_at is None:
        return state
    long = NOW - state.spawned_at >= policy.min_uptime
    state = replace(state, spawned_at=None)
    if not long:
        return state
    if state.trial:
        return replace(state, trial=False, history=_emptied(state))
    return replace(state, history=replace(state.history, streak=0))


def _failed(state: State, policy: RestartPolicy, because: FailedBecause) -> Step:
    hopeless = because in {FailedBecause.FATAL_EXIT, FailedBecause.UNKILLABLE}
    due = NOW + policy.recovery if policy.recovery is not None and not hopeless else None
    return Step(state=replace(state, phase=Phase.FAILED, due=due, charge=False, trial=False, failed_because=because))


def _emptied(state: State) -> RestartHistory:
    return RestartHistory(delay=state.history.delay)


def _down(state: State) -> Step:
    state = replace(state, wanted=False, due=None, charge=False, trial=False)
    if state.failed_because is FailedBecause.UNKILLABLE:
        return Step(state=state)
    return Step(state=replace(state, phase=Phase.DOWN, failed_because=None))


def _end(state: State) -> Step:
    return Step(state=replace(state, phase=Phase.STOPPING, trial=False), command=Command.END)


def _gate(state: State) -> Step:
    return Step(state=replace(state, phase=Phase.WAITING), command=Command.CHECK_GATE)
