"""Finds the line of each key in a TOML text, which :mod:`tomllib` does not tell.

The text has been parsed already, or is about to be refused: this scanner only follows tables, keys
and brackets, and gives up silently where it loses its way.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator

Path = tuple[str | int, ...]

_TOKEN = re.compile(
    r'''
    (?P<newline> \n )
    | (?P<blank> [ \t\r]+ | \#[^\n]* )
    | (?P<string>
        """ (?: \\. | [^\\] )*? "{3,5}
        | \'\'\' .*? \'{3,5}
        | " (?: \\. | [^"\\\n] )* "
        | ' [^'\n]* '
      )
    | (?P<bare> [^\s\[\]{}=,.\#"']+ )
    | (?P<mark> . )
    ''',
    re.VERBOSE | re.DOTALL,
)

_Token = tuple[str, str, int]
"""Kind, text, line. The last one is ("end", "", last line)."""


def key_lines(text: str) -> list[tuple[Path, int]]:
    """Every key path and list item of the text, with its line, counted from 1, in order."""
    scanner = _Scanner(text)
    with contextlib.suppress(_LostError, RecursionError):
        scanner.scan()
    return scanner.found


def repeated_key(text: str, line: int) -> Path:
    """The last key path up to ``line`` that was there before, or () if there is none."""
    seen: set[Path] = set()
    repeated: Path = ()
    for path, at in key_lines(text):
        if at > line:
            break
        if path in seen:
            repeated = path
        seen.add(path)
    return repeated


class _LostError(Exception):
    """The text is no TOML from here on."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found: list[tuple[Path, int]] = []
        self._tokens = list(_tokens(text))
        self._at = 0

    def scan(self) -> None:
        """Follow the statements, each a header or ``key = value``."""
        table: Path = ()
        while self._skip_newlines()[0] != "end":
            if self._take("["):
                is_list = self._take("[")
                table = self._key(())
                self._expect("]")
                if is_list:
                    self._expect("]")
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._expect("=")
        self._value(path)

    def _key(self, table: Path) -> Path:
        """A dotted key; every part of it is recorded."""
        path = table
        while True:
            kind, text, line = self._next()
            if kind not in {"bare", "string"}:
                raise _LostError
            path = (*path, _unquoted(text) if kind == "string" else text)
            self.found.append((path, line))
            if not self._take("."):
                return path

    def _value(self, path: Path) -> None:
        if self._take("{"):
            while not self._closes("}"):
                self._pair(path)
        elif self._take("["):
            index = 0
            while not self._closes("]"):
                self.found.append(((*path, index), self._tokens[self._at][2]))
                self._value((*path, index))
                index += 1
        else:
            while self._tokens[self._at][1] not in {",", "]", "}", "\n", ""}:
                self._next()

    def _closes(self, mark: str) -> bool:
        """Whether a list or table ends here; a comma before the next item is passed over."""
        self._skip_newlines()
        if self._take(","):
            self._skip_newlines()
        if self._tokens[self._at][0] == "end":
            raise _LostError
        return self._take(mark)

    def _skip_newlines(self) -> _Token:
        while self._tokens[self._at][0] == "newline":
            self._at += 1
        return self._tokens[self._at]

    def _take(self, mark: str) -> bool:
        kind, text, _ = self._tokens[self._at]
        if kind == "mark" and text == mark:
            self._at += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise _LostError

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        if token[0] == "end":
            raise _LostError
        self._at += 1
        return token


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind != "blank":
            yield kind, match[0], line
        line += match[0].count("\n")
    yield "end", "", line


def _unquoted(text: str) -> str:
    try:
        return str(tomllib.loads(f"key = {text}")["key"])
    except tomllib.TOMLDecodeError:
        raise _LostError from None
