"""Every table that differs from the lifecycle's in one cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stigmerd.core.lifecycle import TRANSITIONS, Event, Phase, Transition

Table = Mapping[Phase, Mapping[Event, Transition]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One cell, and the transition that it gets instead of its own."""

    phase: Phase
    event: Event
    transition: Transition

    def __str__(self) -> str:
        original = TRANSITIONS[self.phase][self.event]
        cell = f"{self.phase.name} + {self.event.name}"
        return f"{cell}: {original.__name__} -> {self.transition.__name__}"

    @property
    def table(self) -> Table:
        """The whole table, with this one cell changed."""
        row = {**TRANSITIONS[self.phase], self.event: self.transition}
        return {**TRANSITIONS, self.phase: row}


def transitions() -> tuple[Transition, ...]:
    """Every transition that the table uses, in the order of its first use."""
    return tuple(dict.fromkeys(transition for row in TRANSITIONS.values() for transition in row.values()))


def mutants() -> Iterator[Mutant]:
    """Each cell with each transition that is not its own."""
    for phase, row in TRANSITIONS.items():
        for event, original in row.items():
            for transition in transitions():
                if transition is not original:
                    yield Mutant(phase=phase, event=event, transition=transition)
