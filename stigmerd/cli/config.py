"""``check``, ``init``, ``schema``: the configuration, without a daemon."""

from __future__ import annotations

import json
import os
import sys

from stigmerd.adapters.store import HomeError
from stigmerd.cli.errors import OK, USAGE, CommandError
from stigmerd.cli.escape import escape_line
from stigmerd.cli.reach import find_home, hint
from stigmerd.config.init import init_text
from stigmerd.config.load import configuration_path, load_stack
from stigmerd.config.problems import ConfigError, Problem
from stigmerd.config.schema import json_schema


def check(file: str | None, *, home: str | None, as_json: bool) -> int:
    """Validate a configuration: 0 and a summary, or 2 and every error with its place."""
    place = find_home(home)
    source = configuration_path(file, home=place.path)
    named = escape_line(source) if source else "the reference stack"
    try:
        stack = load_stack(file, home=place.path, environ=os.environ)
    except ConfigError as exc:
        _print_problems(exc.errors, named, as_json=as_json)
        return USAGE
    names = list(stack.components)
    if as_json:
        sys.stdout.write(json.dumps({"source": source, "components": names, "errors": []}) + "\n")
    else:
        what = f"{len(names)} component{'' if len(names) == 1 else 's'}"
        which = f" ({', '.join(names)})" if names else ""
        sys.stdout.write(f"{named} is valid: {what}{which}\n")
    return OK


def _print_problems(errors: tuple[Problem, ...], source: str, *, as_json: bool) -> None:
    """Each error on one line, in the form that editors jump to: file, line, column, sentence."""
    if as_json:
        found = [
            {"path": error.path, "message": error.message, "line": error.line, "column": error.column}
            for error in errors
        ]
        sys.stdout.write(json.dumps({"source": source, "errors": found}) + "\n")
        return
    for error in errors:
        where = ":".join(str(part) for part in (source, error.line, error.column) if part is not None)
        sys.stderr.write(f"{where}: {escape_line(error.message)}\n")


def init(*, home: str | None) -> int:
    """Write a commented configuration into the home, unless there is one."""
    place = find_home(home)
    try:
        place.prepare()
    except HomeError as exc:
        raise CommandError(escape_line(str(exc))) from exc
    text = init_text(os.environ, place.path)
    try:
        fd = os.open(place.config, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as exc:
        raise CommandError(
            f"{escape_line(place.config)} exists and is left as it is. Check it with: "
            f"{hint('stigmer server check', place)}"
        ) from exc
    with open(fd, "w", encoding="utf-8") as written:
        written.write(text)
    sys.stdout.write(
        f"Wrote {escape_line(place.config)}. Look through it, then: {hint('stigmer server start', place)}\n"
    )
    return OK


def schema() -> int:
    """Print the JSON Schema of the configuration."""
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
    return OK
