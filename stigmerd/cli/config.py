"""``check`` and ``schema``: the configuration, without a daemon."""

from __future__ import annotations

import json
import sys

from stigmerd.cli.errors import OK, USAGE
from stigmerd.cli.escape import escape_line
from stigmerd.cli.reach import find_home
from stigmerd.cli.reader import read_stack
from stigmerd.config.load import configuration_path
from stigmerd.config.problems import ConfigError, Problem, located
from stigmerd.config.schema import json_schema


def check(file: str | None, *, home: str | None, quiet: bool, as_json: bool) -> int:
    """Validate a configuration: 0 and a summary, or 2 and every error with its place."""
    place = find_home(home)
    source = configuration_path(file, home=place.path)
    named = escape_line(source) if source else "the reference stack"
    try:
        stack = read_stack(file, home=place.path)
    except ConfigError as exc:
        print_problems(exc.errors, named, as_json=as_json)
        return USAGE
    names = list(stack.components)
    if as_json:
        sys.stdout.write(json.dumps({"source": source, "components": names, "errors": []}) + "\n")
    elif not quiet:
        what = f"{len(names)} component{'' if len(names) == 1 else 's'}"
        which = f" ({', '.join(names)})" if names else ""
        sys.stdout.write(f"{named} is valid: {what}{which}\n")
    return OK


def print_problems(errors: tuple[Problem, ...], source: str, *, as_json: bool = False) -> None:
    """Each error on one line, in the form that editors jump to: file, line, column, sentence."""
    if as_json:
        found = [
            {"path": error.path, "message": error.message, "line": error.line, "column": error.column}
            for error in errors
        ]
        sys.stdout.write(json.dumps({"source": source, "components": [], "errors": found}) + "\n")
        return
    for error in errors:
        sys.stderr.write(f"{escape_line(located(error, source))}\n")


def schema() -> int:
    """Print the JSON Schema of the configuration."""
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
    return OK
