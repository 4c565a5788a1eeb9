"""The lifecycle table: total, as the model has it, and its invariants over any course of events."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stigmerd.core.lifecycle import (
    LIVE_PHASES,
    TRANSITIONS,
    Command,
    Event,
    FailedBecause,
    Phase,
    State,
    step,
)
from stigmerd.core.restart import backoff
from stigmerd.core.spec import RestartPolicy
from tests.core.lifecycle_model import EXITS, find_violation


def test_every_phase_answers_every_event() -> None:
    assert {phase: set(row) for phase, row in TRANSITIONS.items()} == {phase: set(Event) for phase in Phase}


def test_table_does_what_the_model_says() -> None:
    assert find_violation(TRANSITIONS) is None


def test_backoff_doubles_to_its_maximum() -> None:
    policy = RestartPolicy()
    assert [backoff(n, policy) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert backoff(10**6, policy) == 60


def test_instant_crasher_starts_at_the_instants_of_the_contract() -> None:
    policy, state, now, starts = RestartPolicy(), State(), 0.0, []
    state = step(state, Event.UP, now, policy).state
    while state.phase is not Phase.FAILED:
        if state.phase is Phase.BACKOFF:
            assert state.due is not None
            now = state.due
            state = step(state, Event.DEADLINE, now, policy).state
        starts.append(now)
        for event in (Event.OPEN, Event.SPAWNED, Event.STARTED, Event.EXITED):
            state = step(state, event, now, policy).state
    assert starts == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303]
    assert state.failed_because is FailedBecause.BUDGET


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_jitter_adds_at_most_its_fraction(jitter: float) -> None:
    policy = RestartPolicy(jitter=jitter)
    state = State(phase=Phase.RUNNING, wanted=True, life=1, spawned_at=0.0)
    for _ in range(100):
        chance = random.random()
        due = step(state, Event.EXITED, 1.0, policy, chance).state.due
        assert due == pytest.approx(1.0 + 1.0 * (1 + jitter * chance))


class Course(RuleBasedStateMachine):
    """Any course of events that an engine could send, against the promises of the contract."""

    policy = RestartPolicy(max_restarts=3, window=60.0, min_uptime=5.0, recovery=40.0)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state = State()
        self.alive = 0
        self.ordered = False
        self.begun: list[float] = []
        self.lives = 0

    def send(self, event: Event) -> None:
        before = self.state
        decided = step(before, event, self.now, self.policy)
        self.state = decided.state
        if decided.command is Command.LAUNCH:
            assert self.alive == 0, "two lives at once"
            assert not self.ordered
            self.ordered = True
            assert self.state.life == before.life + 1
            if self.state.charge and not self.state.trial:
                self.begun.append(self.now)
        if before.history.counted and not self.state.history.counted and event is not Event.DEADLINE:
            self.begun.clear()
        if not self.state.history.counted:
            self.begun.clear()

    @rule(seconds=st.floats(min_value=0.0, max_value=70.0))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.state.due is not None and self.state.due <= until:
            self.now = max(self.now, self.state.due)
            due = self.state.due
            self.send(Event.DEADLINE)
            assert self.state.due != due
        self.now = until

    @rule(event=st.sampled_from([Event.UP, Event.DOWN, Event.BOUNCE, Event.FOLLOW, Event.SHUT]))
    def somebody_asks(self, event: Event) -> None:
        self.send(event)
        if event is Event.DOWN:
            assert not self.state.wanted

    @precondition(lambda self: self.state.phase is Phase.WAITING)
    @rule()
    def gate_opens(self) -> None:
        self.send(Event.OPEN)

    @precondition(lambda self: self.ordered)
    @rule(succeeds=st.booleans())
    def spawn_ends(self, succeeds: bool) -> None:
        self.ordered = False
        self.alive = int(succeeds)
        self.send(Event.SPAWNED if succeeds else Event.NO_SPAWN)

    @precondition(lambda self: self.alive)
    @rule(event=st.sampled_from([Event.STARTED, Event.UNHEALTHY]))
    def probe_speaks(self, event: Event) -> None:
        self.send(event)

    @precondition(lambda self: self.alive)
    @rule(event=st.sampled_from(sorted(EXITS, key=lambda event: event.name)))
    def life_ends(self, event: Event) -> None:
        self.alive = 0
        self.send(event)

    @precondition(lambda self: not self.alive and not self.ordered)
    @rule(event=st.sampled_from([Event.STARTED, Event.UNHEALTHY]))
    def verdict_of_an_earlier_life_arrives(self, event: Event) -> None:
        before = self.state
        self.send(event)
        assert self.state == before

    @invariant()
    def a_life_is_there_exactly_in_the_phases_that_have_one(self) -> None:
        assert (self.state.phase in LIVE_PHASES) == bool(self.alive or self.ordered)

    @invariant()
    def budget_is_never_exceeded(self) -> None:
        recent = [at for at in self.begun if self.now - at <= self.policy.window]
        assert len(recent) <= self.policy.max_restarts
        assert len(self.state.history.counted) <= self.policy.max_restarts

    @invariant()
    def what_is_not_wanted_does_not_come_up(self) -> None:
        if not self.state.wanted:
            assert self.state.phase in {Phase.DOWN, Phase.STOPPING, Phase.FAILED}

    @invariant()
    def a_trial_is_only_under_way_when_the_budget_was_spent(self) -> None:
        assert not (self.state.trial and self.state.phase in {Phase.DOWN, Phase.BACKOFF, Phase.FAILED, Phase.COMPLETED})


TestCourse: Any = Course.TestCase
