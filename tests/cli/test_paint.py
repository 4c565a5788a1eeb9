"""Whether and how wide: what terminals, pipes and the environment have to say."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from stigmerd.cli.paint import screen_width, wants_colour
from tests.cli.terminals import OWN_CODES, terminal, unexpected_bytes
from tests.system.daemons import Stack, stack


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A terminal, and nothing in the environment that says otherwise."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()
    with open(slave, "w") as stream:
        yield stream
    os.close(master)


def test_terminal_gets_colour_and_a_pipe_none(screen: TextIO) -> None:
    assert wants_colour(screen)
    assert not wants_colour(io.StringIO())


@pytest.mark.parametrize(
    ("environment", "on_screen", "on_pipe"),
    [
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_environment_decides_about_colour(
    environment: dict[str, str], on_screen: bool, on_pipe: bool, screen: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (wants_colour(screen), wants_colour(io.StringIO())) == (on_screen, on_pipe)


@pytest.mark.parametrize(("columns", "width"), [("132", 132), ("0", None), ("-1", None), ("wide", None), ("٣", None)])
def test_columns_set_the_width_of_a_pipe_if_they_are_a_number(
    columns: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert screen_width(io.StringIO()) == width


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with something to say in each colour."""
    with stack(tmp_path_factory.mktemp("home")) as one:
        one.configure(
            '[component.web]\ncommand = ["sh", "-c", "echo up; exec sleep 1000"]\n'
            '[component.broken]\ncommand = ["sh", "-c", "exit 78"]\n'
        )
        one.start()
        one.wait_state("broken", "failed")
        yield one


LOOKS = [["status", "--verbose"], ["events"], ["explain", "broken"], ["logs", "--no-follow"]]


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_every_look_heeds_the_environment_on_a_pipe(words: list[str], running: Stack) -> None:
    def output(**environment: str) -> str:
        command = [sys.executable, "-m", "stigmerd.cli", "server", *words, "--home", str(running.home)]
        kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=kept | environment)
        return done.stdout.decode()

    assert "\x1b" not in output()
    coloured = output(FORCE_COLOR="1")
    assert OWN_CODES.search(coloured.encode())
    assert unexpected_bytes(coloured.encode()) == set()
    assert "\x1b" not in output(FORCE_COLOR="1", NO_COLOR="1")


@pytest.mark.parametrize("columns", [40, 60, 80, 160])
def test_status_fits_the_terminal_it_is_on(columns: int, running: Stack) -> None:
    with terminal("server", "status", "--home", str(running.home), columns=columns) as screen:
        lines = OWN_CODES.sub(b"", screen.read_to_end()).decode().splitlines()
    assert [line for line in lines if len(line) > columns and not re.match(" +log: ", line)] == []
    assert len(lines) > 5
