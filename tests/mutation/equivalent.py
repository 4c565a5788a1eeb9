"""Mutants that no test can tell from the table, each with the argument why.

Each argument speaks of a set of cells and transitions; a mutant in the set that is caught after
all makes the run fail, so that no argument outlives its truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stigmerd.core.lifecycle import TRANSITIONS, Phase, ignore, run
from tests.mutation.mutants import Mutant


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """Why the mutants that ``covers`` accepts behave like the table."""

    why: str
    covers: Callable[[Mutant], bool]


ARGUMENTS = (
    Argument(
        why="`run` sets the phase to RUNNING and nothing else: there, that is `ignore`",
        covers=lambda mutant: (
            mutant.phase is Phase.RUNNING
            and mutant.transition is run
            and TRANSITIONS[mutant.phase][mutant.event] is ignore
        ),
    ),
)


def argue(mutant: Mutant) -> Argument | None:
    """The argument that a mutant is equivalent, or None."""
    return next((argument for argument in ARGUMENTS if argument.covers(mutant)), None)
