"""The documents of a board are those of its views, however often it is asked."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stigmerd.core.lifecycle import Phase, State
from stigmerd.core.record import Identity
from stigmerd.core.restart import RestartHistory
from stigmerd.core.spec import RestartPolicy
from stigmerd.engine.board import Board, View
from tests.engine.fakes import BOOT_ID, component

WALL = 1_769_054_400.0
RUNNING = State(phase=Phase.RUNNING, wanted=True, life=3, spawned_at=10.0)
COUNTED = replace(RUNNING, restarts=2, history=RestartHistory(counted=(5.0, 9.0), streak=2, delay=1.0))
BACKOFF = replace(COUNTED, phase=Phase.BACKOFF, spawned_at=None, due=30.0)


def shown(state: State) -> View:
    spec = component(restart=RestartPolicy(window=20.0))
    return View(spec=spec, log="/log", state=state, identity=Identity(nonce="3-abc", boot_id=BOOT_ID, pid=4711))


@pytest.mark.parametrize("state", [State(), RUNNING, COUNTED, BACKOFF], ids=lambda state: state.phase.value)
def test_document_moves_with_time(state: State) -> None:
    board, view = Board(), shown(state)
    board.add(view)
    for now in (12.0, 12.5, 28.0, 29.5):
        assert board.document("web", now, WALL + now) == view.to_document(now, WALL + now)


def test_document_follows_its_view() -> None:
    board = Board()
    board.add(shown(RUNNING))
    board.document("web", 12.0, WALL)
    changed = replace(shown(RUNNING), note="paused", last_error="killed by SIGKILL")
    board.publish(changed)
    assert board.document("web", 13.0, WALL) == changed.to_document(13.0, WALL)


def test_document_of_what_was_removed_and_added_again_is_the_new_one() -> None:
    board = Board()
    board.add(shown(RUNNING))
    board.document("web", 12.0, WALL)
    board.remove("web")
    board.add(shown(State()))
    assert board.document("web", 13.0, WALL).life == 0
