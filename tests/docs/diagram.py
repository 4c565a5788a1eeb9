"""``python -m tests.docs.diagram`` draws the lifecycle's table into docs/restarts.md.

An arrow is found by doing: every cell's transition is tried on states that differ in all that a
transition may look at, and the phases that come out are the arrow's heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from stigmerd.core.lifecycle import TRANSITIONS, Event, FailedBecause, Phase, State, impossible, step
from stigmerd.core.restart import EMPTY, RestartHistory
from stigmerd.core.spec import RestartPolicy, RestartWhen

PAGE = Path(__file__).parents[2] / "docs" / "restarts.md"
BEGIN, END = "<!-- diagram: begin -->\n", "<!-- diagram: end -->\n"

LABELS = {
    Event.UP: "start",
    Event.DOWN: "stop",
    Event.BOUNCE: "restart",
    Event.FOLLOW: "dependency restarted",
    Event.OPEN: "gate open",
    Event.SHUT: "gate shut",
    Event.SPAWNED: "spawned",
    Event.NO_SPAWN: "spawn failed",
    Event.STARTED: "startup passed",
    Event.UNHEALTHY: "probe failed",
    Event.EXITED: "exit",
    Event.EXITED_DONE: "exit, done",
    Event.EXITED_BAD: "exit, policy forbids",
    Event.EXITED_FATAL: "exit, fatal code",
    Event.SURVIVED: "cannot be killed",
    Event.DEADLINE: "time is up",
}
"""What the arrows say, in an operator's words."""

EXITS = [LABELS[e] for e in (Event.EXITED, Event.EXITED_DONE, Event.EXITED_BAD, Event.EXITED_FATAL)]

NOW = 1000.0
POLICIES = [RestartPolicy(when=when, max_restarts=1) for when in RestartWhen]


def states(phase: Phase) -> Iterator[State]:
    """States of one phase that differ in all that a transition may look at."""
    spent = RestartHistory(counted=(NOW - 1,), streak=1, delay=1.0)
    for wanted, trial, charge, history, born, because in itertools.product(
        (False, True),
        (False, True),
        (False, True),
        (EMPTY, spent),
        (None, NOW, NOW - 100),
        (None, FailedBecause.UNKILLABLE),
    ):
        yield State(
            phase=phase,
            wanted=wanted,
            trial=trial,
            charge=charge,
            history=history,
            spawned_at=born,
            failed_because=because if phase is Phase.FAILED else None,
        )


def heads(phase: Phase, event: Event) -> set[Phase]:
    """The other phases that an event can lead to."""
    if TRANSITIONS[phase][event] is impossible:
        return set()
    found = {
        step(state, event, NOW, policy).state.phase
        for state, policy in itertools.product(states(phase), POLICIES)
    }
    return found - {phase}


def draw() -> str:
    """The diagram, as a fenced Mermaid block. Events that keep the phase are left out."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for phase, event in itertools.product(Phase, Event):
        for head in sorted(heads(phase, event), key=list(Phase).index):
            arrows.setdefault((phase, head), []).append(LABELS[event])
    lines = [f"    {tail.value} --> {head.value}: {_shorten(labels)}" for (tail, head), labels in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.DOWN.value}", *lines, "```", ""])


def _shorten(labels: list[str]) -> str:
    if not set(EXITS) <= set(labels):
        return " · ".join(labels)
    others = [label for label in labels if label not in EXITS]
    return " · ".join([*others, "any exit"])


def with_diagram(text: str) -> str:
    """The page's text, with the present diagram in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + draw() + END + after


if __name__ == "__main__":
    PAGE.write_text(with_diagram(PAGE.read_text()))
