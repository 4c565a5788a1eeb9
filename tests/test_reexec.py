"""What the next program is asked before the daemon becomes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from stigmerd.adapters.disk.home import Home
from stigmerd.daemon import reexec
from stigmerd.daemon.reexec import ask_next_program
from stigmerd.daemon.start import Start


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A daemon that was started here."""
    return Start(
        home=Home(str(tmp_path)),
        config=None,
        log_format="text",
        log_level=None,
        environment=dict(os.environ),
        children_nofile=None,
        lock=-1,
    )


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What runs the next program, to be written."""
    path = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "objection"),
    [
        ("exit 0", None),
        ("echo no good >&2; exit 2", "no good"),
        ("exit 2", "it ended without a word: exited with code 2"),
        ("kill -9 $$", "it ended without a word: killed by SIGKILL"),
    ],
)
async def test_next_program_that_ends_without_a_word_is_not_said_to_have_kept_silent_for_long(
    start: Start, interpreter: Path, script: str, objection: str | None
) -> None:
    write(interpreter, script)
    assert await ask_next_program(start, None) == objection


async def test_next_program_that_does_not_end_is_ended_and_said_not_to_have_answered(
    start: Start, interpreter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reexec, "CHECK_BOUND", 0.3)
    write(interpreter, "exec sleep 1000")
    assert await ask_next_program(start, None) == "it did not answer within 0.3 s"
