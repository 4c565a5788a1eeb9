"""A Procfile: ``name: command`` lines, as Heroku, foreman, honcho and overmind run them.

Source: https://devcenter.heroku.com/articles/procfile; foreman's ``.env`` and port numbers.
"""

from __future__ import annotations

import os
import re
import shlex

from stigmerd.config.files import variables
from stigmerd.config.imports.result import Import, ImportRefusedError, Table
from stigmerd.config.interpolate import escape

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")
_NEEDS_SHELL = re.compile(r"[$|&;<>()`*?\[\]{}~#!]|^[A-Za-z_][A-Za-z0-9_]*=")
"""What means something to the shell that foreman runs every command in."""

FIRST_PORT = 5000
PORT_STEP = 100
"""The ``PORT`` of the first process type, and how far apart those of the next ones are."""


def read_procfile(text: str, found: Import) -> None:
    """Make a component of every line.

    Raises:
        ImportRefusedError: there is no line of a Procfile in it.
    """
    env_file = found.env_file(".env", "", ".env") if os.path.lexists(found.absolute(".env")) else None
    first_port = _first_port(env_file)
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        match = _LINE.fullmatch(entry)
        if match is None:
            found.leave(f"line {number}", "", "is no `name: command`", "Write it so, or drop it")
            continue
        port = first_port + PORT_STEP * len(found.components)
        table: Table = {"command": command(match[2]), "cwd": escape(found.folder), "env": {"PORT": str(port)}}
        if env_file is not None:
            table["env_file"] = escape(env_file)
        found.add(f"line {number}", match[1], table)
    if not found.components:
        raise ImportRefusedError(f"{found.source} has no `name: command` line: is it a Procfile?")


def command(line: str) -> list[str]:
    """The argv of a command line: through a shell only where the line needs one."""
    if not _NEEDS_SHELL.search(line):
        try:
            return shlex.split(line)
        except ValueError:
            pass  # the shell will say what it thinks of that
    return ["sh", "-c", escape(line)]


def _first_port(env_file: str | None) -> int:
    if env_file is None:
        return FIRST_PORT
    with open(env_file, "rb") as file:
        written = variables(file.read(), env_file).get("PORT", "")
    return int(written) if re.fullmatch(r"[0-9]{1,5}", written) else FIRST_PORT
