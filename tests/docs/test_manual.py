"""The manual page says what the help says."""

from __future__ import annotations

import re

from stigmerd.cli.app import server
from tests.docs.manual import PAGE, plain, write_manual


def test_manual_is_what_the_help_says() -> None:
    assert PAGE.read_text() == write_manual(), "run: python -m tests.docs.manual"


def test_every_command_and_every_option_has_its_words() -> None:
    text = PAGE.read_text()
    for name, command in server.resolved_commands().items():
        if not name.startswith("-") and name != "why":
            assert f".SS stigmer server {name}" in text
            assert command.help
    assert re.findall(r"^\.TP\n\\fB.*\\fR\n\n", text, re.MULTILINE) == []


def test_text_is_never_a_request_or_an_escape() -> None:
    assert plain(".a\n'b\\c --d") == "\\&.a\n\\&'b\\ec \\-\\-d"
