"""``init``: the first configuration, from what is installed or from the file of another tool."""

from __future__ import annotations

import json
import os
import sys

from stigmerd.adapters.disk.store import Home, HomeError
from stigmerd.cli.config import print_problems
from stigmerd.cli.errors import OK, USAGE, CommandError, usage_error
from stigmerd.cli.escape import escape_line
from stigmerd.cli.reach import find_home, hint
from stigmerd.config.imports.reading import USUAL_NAMES, import_file
from stigmerd.config.imports.result import Import, ImportRefusedError
from stigmerd.config.imports.writing import write_import
from stigmerd.config.init import init_text
from stigmerd.config.load import check_file
from stigmerd.config.problems import Problem


def init(source: str | None, *, home: str | None, quiet: bool, as_json: bool) -> int:
    """Write a commented configuration into the home, unless there is one. 2: it needs a hand before it loads."""
    place = find_home(home)
    found = None if source is None else _imported(source)
    _write(place, init_text(os.environ, place.path) if found is None else write_import(found))
    errors = check_file(place.config, home=place.path, environ=os.environ)
    if as_json:
        sys.stdout.write(json.dumps(_document(place, found, errors)) + "\n")
    elif not quiet:
        _tell(place, found, is_valid=not errors)
    if errors and not as_json:
        print_problems(errors, escape_line(place.config))
    return USAGE if errors else OK


def _imported(source: str) -> Import:
    try:
        return import_file(source, os.environ)
    except ImportRefusedError as exc:
        raise usage_error(escape_line(str(exc))) from exc


def _write(place: Home, text: str) -> None:
    try:
        place.prepare()
        fd = os.open(place.config, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except HomeError as exc:
        raise CommandError(escape_line(str(exc))) from exc
    except FileExistsError as exc:
        raise CommandError(
            f"{escape_line(place.config)} exists and is left as it is. Check it with: "
            f"{hint('stigmer server check', place)}"
        ) from exc
    with open(fd, "w", encoding="utf-8") as written:
        written.write(text)


def _document(place: Home, found: Import | None, errors: tuple[Problem, ...]) -> dict[str, object]:
    return {
        "config": place.config,
        "source": found.source if found else None,
        "components": list(found.components) if found else None,
        "not_carried_over": [left._asdict() for left in found.left] if found else [],
        "errors": [{"path": error.path, "message": error.message, "line": error.line} for error in errors],
    }


def _tell(place: Home, found: Import | None, *, is_valid: bool) -> None:
    """Say what was written, what was left out, and what to do next."""
    lines = [f"Wrote {place.config}."]
    if found is None:
        lines += [
            f"There is a {name} here; its services become components with: stigmer server init --from {name}"
            for name in USUAL_NAMES
            if os.path.isfile(name)
        ]
    else:
        lines[0] = f"Wrote {place.config} from {found.source}: {', '.join(found.components)}."
        lines.append("Values of environment variables are in it as they were; only you can read it (mode 0600).")
        lines += ["Not carried over (it is at the top of the file too):"] if found.left else []
        lines += [f"  {left}" for left in found.left]
    first = "Look through it" if is_valid else "Mend in it what is told below"
    lines.append(f"{first}, then: {hint('stigmer server start', place)}")
    sys.stdout.write("".join(f"{escape_line(text)}\n" for text in lines))
    sys.stdout.flush()
