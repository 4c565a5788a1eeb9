"""Tells which tool a file is of, and has it read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from stigmerd.config.imports.compose import read_compose
from stigmerd.config.imports.procfile import read_procfile
from stigmerd.config.imports.result import Import, ImportRefusedError, read_text
from stigmerd.config.imports.supervisord import read_supervisord

USUAL_NAMES = (
    *("Procfile", "supervisord.conf"),
    *("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"),
)
"""What such files are called."""


def import_file(path: str, environ: Mapping[str, str]) -> Import:
    """Make components of a Procfile, a supervisord.conf or a compose file. ``environ`` is for its variables.

    Raises:
        ImportRefusedError: it cannot be read, or is none of them.
    """
    found = Import(source=os.path.abspath(path))
    text = read_text(found.source)
    kind = kind_of(found.source, text)
    if kind == "procfile":
        read_procfile(text, found)
    elif kind == "supervisord":
        read_supervisord(text, found)
    else:
        read_compose(text, found, environ)
    return found


def kind_of(path: str, text: str) -> str:
    """``procfile``, ``supervisord`` or ``compose``: by the name, else by what stands in the file."""
    name = os.path.basename(path).lower()
    if re.fullmatch(r"procfile(\..*)?|.*\.procfile", name):
        return "procfile"
    if name.endswith((".yml", ".yaml", ".json")) or re.search(r"^\"?services\"?:", text, re.MULTILINE):
        return "compose"
    if name.endswith((".conf", ".ini")) or re.search(r"^\[(program:.*|supervisord)\]", text, re.MULTILINE):
        return "supervisord"
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and all(re.match(r"[A-Za-z0-9_-]+:\s*\S", line) for line in lines):
        return "procfile"
    raise ImportRefusedError(f"{path} is no Procfile, supervisord.conf or compose file: name one of these")
