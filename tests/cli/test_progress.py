"""What is shown while an operation goes on."""

from __future__ import annotations

import msgspec
import pytest

from stigmerd.cli.paint import Line
from stigmerd.cli.progress import Lines, progress_lines
from stigmerd.core.status import ComponentDocument, StatusDocument
from tests.cli.documents import NOW, SERVER


def component(name: str, state: str) -> ComponentDocument:
    """One component in a state, up and ready where it is running."""
    up = state == "running"
    return msgspec.structs.replace(SERVER, name=name, state=state, ready=up, healthy=up, reason="", probes=())


def shown(components: list[ComponentDocument], height: int) -> list[str]:
    """The text of the lines, on a screen of 80 columns."""
    lines: list[Line] = progress_lines(components, now=NOW, width=80, height=height)
    return ["".join(span.text for span in line) for line in lines]


MANY = [
    *(component(f"up{number}", "running") for number in range(20)),
    *(component(f"wait{number}", "waiting") for number in range(20)),
    component("last", "starting"),
]


def test_heading_counts_states_in_their_order() -> None:
    assert shown([component("a", "running"), component("b", "waiting"), component("c", "running")], 24)[0] == (
        "2 running, 1 waiting"
    )


def test_table_that_fits_is_whole() -> None:
    text = "\n".join(shown(MANY, 100))
    assert all(one.name in text for one in MANY)


def test_table_that_does_not_fit_has_what_moves_first_and_ends_in_an_ellipsis() -> None:
    lines = shown(MANY, 12)
    assert lines[0] == "20 running, 20 waiting, 1 starting"
    assert "last" in lines[2]
    assert "wait0" in lines[3]
    assert lines[-1] == "…"
    assert len(lines) <= 11
    assert not any("up" in line for line in lines[1:])


def test_settled_table_that_does_not_fit_is_cut() -> None:
    lines = shown([component(f"up{number}", "running") for number in range(30)], 10)
    assert len(lines) <= 9
    assert lines[-1] == "…"


@pytest.mark.parametrize(("all_is_new", "told"), [(True, "✓ a running\n"), (False, "")])
def test_on_a_pipe_how_it_was_before_is_told_only_of_what_is_new(
    all_is_new: bool, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines(all_is_new=all_is_new)
    for state in ("running", "running", "stopped"):
        lines.show(StatusDocument(daemon=None, healthy=True, components=(component("a", state),)))
    assert capsys.readouterr().out == f"{told}○ a stopped\n"
