"""The mutants themselves; whether the checks see them is the `mutate` session's question."""

from __future__ import annotations

from stigmerd.core.lifecycle import TRANSITIONS, Event, Phase
from tests.mutation.equivalent import ARGUMENTS
from tests.mutation.mutants import mutants, transitions


def test_every_cell_gets_every_other_transition_once() -> None:
    cells = [(mutant.phase, mutant.event, mutant.transition) for mutant in mutants()]
    assert len(set(cells)) == len(cells) == len(Phase) * len(Event) * (len(transitions()) - 1)


def test_mutant_differs_from_the_table_in_one_cell() -> None:
    for mutant in list(mutants())[::97]:
        table = mutant.table
        differing = [
            (phase, event)
            for phase in Phase
            for event in Event
            if table[phase][event] is not TRANSITIONS[phase][event]
        ]
        assert differing == [(mutant.phase, mutant.event)]


def test_every_argument_speaks_of_a_mutant() -> None:
    for argument in ARGUMENTS:
        assert any(argument.covers(mutant) for mutant in mutants()), argument.why
