"""Writes imported components as a configuration: TOML that a person goes on to edit."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from stigmerd.config.imports.result import Import, Left, Table
from stigmerd.config.toml_text import key, value

WIDTH = 100
"""Columns that an inline table may fill; a longer one becomes a table of its own."""

_HEAD = """\
# Imported from {source}.
# Every key is in docs/configuration.md; `stigmer server check` validates this file.
# Values of environment variables stand here as they stood there: keep this file to yourself.
"""


def write_import(found: Import) -> str:
    """The text of the configuration; above it, what could not be carried over."""
    head = _HEAD.format(source=_comment(found.source))
    left = "".join(_left_comment(each) for each in found.left)
    if left:
        head += f"#\n# Not carried over:\n{left}"
    return "\n".join([head, *(_component(name, table) for name, table in found.components.items())])


def _left_comment(left: Left) -> str:
    lines = textwrap.wrap(_comment(str(left)), WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {'-' if number == 0 else ' '} {line}\n" for number, line in enumerate(lines))


def _comment(text: str) -> str:
    """Text of a file on one line of printable characters."""
    return "".join(char if char.isprintable() else " " for char in text)


def _component(name: str, table: Table) -> str:
    return "".join(_lines(f"component.{key(name)}", table))


def _lines(path: str, table: Table) -> Iterator[str]:
    """A table with its keys; after them the tables in it that are too long for one line."""
    long = {name: item for name, item in table.items() if isinstance(item, dict) and _is_long(name, item)}
    yield f"[{path}]\n"
    for name, item in table.items():
        if name not in long:
            yield f"{key(name)} = {value(item)}\n"
    for name, item in long.items():
        yield "\n"
        yield from _lines(f"{path}.{key(name)}", item)


def _is_long(name: str, table: Table) -> bool:
    return len(f"{key(name)} = {value(table)}") > WIDTH
