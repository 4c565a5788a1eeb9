"""What an import brings: components as tables of the file, and what could not be carried over."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stigmerd.config.files import TrustedFiles, variables
from stigmerd.config.problems import RefusedError
from stigmerd.core.spec import RESERVED_NAMES

Table = dict[str, Any]

LARGEST_FILE = 1024 * 1024
"""Bytes of a file to import from: what people write by hand is far smaller."""

LONGEST_NAME = 63


class ImportRefusedError(Exception):
    """The file cannot be imported. The message says why, and what to do."""


class Left(NamedTuple):
    """One thing that could not be carried over."""

    section: str
    """Where it stands, in the words of the file, such as ``[program:web]``."""
    key: str
    why: str
    instead: str

    def __str__(self) -> str:
        place = f"{self.section} {self.key}".strip()
        return f"{place}: {self.why}. {self.instead}" if self.instead else f"{place}: {self.why}"


@dataclass(kw_only=True)
class Import:
    """One file, as far as it has been read. ``source`` is its absolute path."""

    source: str
    components: dict[str, Table] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)

    @property
    def folder(self) -> str:
        """The folder that relative paths are taken from."""
        return os.path.dirname(self.source)

    def leave(self, section: str, key: str, why: str, instead: str = "") -> None:
        """Note what could not be carried over, once."""
        left = Left(section, key, why, instead)
        if left not in self.left:
            self.left.append(left)

    def add(self, section: str, name: str, table: Table) -> str:
        """Add a component under the name that is nearest to its own, and return that."""
        found = component_name(name, self.components)
        if found != name:
            self.leave(section, "name", f"{name!r} is no name of a component", f"It is called {found} here")
        self.components[found] = table
        return found

    def absolute(self, path: str) -> str:
        """A path of the file; ``~`` is the user's home."""
        return os.path.normpath(os.path.join(self.folder, os.path.expanduser(path)))

    def env_file(self, section: str, key: str, path: str) -> str | None:
        """The absolute path of a file of variables, if the daemon will read it as it is."""
        path = self.absolute(path)
        try:
            variables(TrustedFiles(os.geteuid()).read(path), path)
        except RefusedError as refused:
            self.leave(section, key, str(refused.said), f"{sentence(refused.advice)}, then add env_file = {path!r}")
            return None
        return path


def sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]


def component_name(name: str, taken: Iterable[str]) -> str:
    """The name of a component that is most like a name of another tool, and not taken."""
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).lstrip("-_")[:LONGEST_NAME] or "component"
    candidate, number = cleaned, 2
    while candidate in RESERVED_NAMES or candidate in taken:
        suffix = f"-{number}"
        candidate = cleaned[: LONGEST_NAME - len(suffix)] + suffix
        number += 1
    return candidate


def read_text(path: str) -> str:
    """The text of a file that somebody wrote by hand.

    Raises:
        ImportRefusedError: it is none.
    """
    try:
        # Not blocking: a FIFO in the place of the file would hold up the open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ImportRefusedError(f"{path} is no regular file: give the path of a file")
            content = file.read(LARGEST_FILE + 1)
    except OSError as exc:
        raise ImportRefusedError(f"{path} cannot be read, {exc.strerror}: give the path of a file") from exc
    if len(content) > LARGEST_FILE:
        raise ImportRefusedError(f"{path} is larger than 1 MiB: nobody wrote that by hand")
    if b"\0" in content:
        raise ImportRefusedError(f"{path} holds a NUL character: it is no text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ImportRefusedError(f"{path}, line {line}, is not UTF-8: save it as UTF-8") from exc
