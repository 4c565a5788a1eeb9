"""The manual page, written from the help of every command: ``python -m tests.docs.manual`` writes it anew."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from stigmerd.cli.app import app, server
from stigmerd.cli.lifecycle import START_TIMEOUT

PAGE = Path(__file__).parents[2] / "docs" / "man" / "stigmer.1"

EXIT_CODES = {
    "0": "Done; for status: every required component is healthy.",
    "1": "The operation failed; for status: something is unhealthy.",
    "2": "Usage or configuration error.",
    "3": "The daemon is not running.",
    "4": "The daemon did not answer within 5 seconds.",
    "130": "Ctrl-C. It ends the client only; the daemon finishes what it was asked for.",
}
FILES = {
    "~/.stigmer": "The home, unless STIGMER_HOME or --home names another.",
    "~/.stigmer/stigmer.toml": "The configuration. Without one the built-in reference stack runs.",
    "~/.stigmer/logs/NAME.log": "What a component wrote; stigmerd.log is the daemon's own.",
    "~/.stigmer/state": "The state, and the event history.",
    "~/.stigmer/run/stigmerd.sock": "The control channel.",
}
ENVIRONMENT = {
    "STIGMER_HOME": "The home, where --home does not name one.",
    "DOCKER_HOST": "The Docker Engine, where it is not that of the current docker context.",
    "NO_COLOR, FORCE_COLOR, COLUMNS": "Whether output is coloured, and how wide it may be.",
}


def plain(text: str) -> str:
    """Text as roff has it: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def parts_of(command: App) -> tuple[str, list[str]]:
    """The description of a command in paragraphs, and its examples."""
    text = inspect.cleandoc(command.help)
    description, _, rest = text.partition("**Examples**")
    examples = rest.partition("Parameters\n---")[0]
    return description.strip(), [line.strip() for line in examples.splitlines() if line.strip()]


def options_of(command: App) -> Iterator[tuple[str, str]]:
    """Every argument and option of a command, with what it is for."""
    for argument in command.assemble_argument_collection(parse_docstring=True):
        names = ", ".join(sorted(argument.names, key=len))
        takes_value = names.startswith("-") and not argument.is_flag()
        value = f" {argument.parameter.metavar or argument.field_info.name.upper()}" if takes_value else ""
        yield f"{names}{value}", str(argument.parameter.help or "")


def command_lines(name: str, command: App) -> Iterator[str]:
    """The part of one command."""
    description, examples = parts_of(command)
    yield f".SS {plain(name)}"
    yield ".PP\n".join(plain(paragraph) + "\n" for paragraph in description.split("\n\n")).rstrip()
    for option, about in options_of(command):
        yield f".TP\n\\fB{plain(option)}\\fR\n{plain(about)}"
    if examples:
        yield ".PP\nExamples:\n.PP\n.RS 4\n.nf"
        yield from map(plain, examples)
        yield ".fi\n.RE"


def listed(entries: dict[str, str]) -> Iterator[str]:
    """A list of words with what they mean."""
    for word, about in entries.items():
        yield f".TP\n\\fB{plain(word)}\\fR\n{plain(about)}"


def write_manual() -> str:
    """The whole page."""
    lines = [
        '.\\" Written from the help of the commands by: python -m tests.docs.manual',
        '.TH STIGMER 1 "" "stigmerd" "User Commands"',
        ".SH NAME",
        f"stigmer \\- {plain(parts_of(app)[0][0].lower() + parts_of(app)[0][1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        "\\fBstigmer server\\fR [\\fICOMMAND\\fR] [\\fINAME\\fR ...] [\\fIOPTION\\fR ...]",
        ".SH DESCRIPTION",
        plain(parts_of(server)[0]),
        plain(
            f"start, restart and wait give up after --timeout, by default {START_TIMEOUT:g} seconds. "
            "A TIME is 30, 500ms, 10m or 1h30m."
        ),
        ".SH COMMANDS",
    ]
    for name, command in server.resolved_commands().items():
        if not name.startswith("-") and isinstance(command, App) and name == command.name[0]:
            lines += command_lines(f"stigmer server {' | '.join(command.name)}", command)
    lines += command_lines("stigmer completion", app["completion"])
    lines += [".SH EXIT STATUS", *listed(EXIT_CODES), ".SH ENVIRONMENT", *listed(ENVIRONMENT)]
    lines += [".SH FILES", *listed(FILES), ".SH SEE ALSO", "The pages in docs/ of the distribution."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(write_manual())
