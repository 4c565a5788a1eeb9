"""The state diagram in the documentation."""

from __future__ import annotations

import pytest

from stigmerd.core.lifecycle import Event, Phase
from tests.docs.diagram import LABELS, PAGE, heads, with_diagram


def test_diagram_shows_the_table_as_it_is() -> None:
    text = PAGE.read_text()
    assert with_diagram(text) == text, "run: python -m tests.docs.diagram"


def test_every_event_has_words() -> None:
    assert set(LABELS) == set(Event)


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_can_be_left(phase: Phase) -> None:
    assert any(heads(phase, event) for event in Event)
