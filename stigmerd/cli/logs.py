"""``logs``: what components wrote, several in the order of their times, then what is new.

Everything is read from the files, so a restart, a rotation or the daemon's death interrupts nothing.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from stigmerd.adapters.output import DAEMON, LogFiles, LogTail
from stigmerd.adapters.store import Home
from stigmerd.cli.errors import OK, check_names, usage_error
from stigmerd.cli.escape import escape_bytes
from stigmerd.cli.logtime import Stamped, interleave, stamp
from stigmerd.cli.paint import wants_colour
from stigmerd.cli.reach import find_home
from stigmerd.cli.status import known_names
from stigmerd.cli.times import parse_since

LAST = 50
"""Lines of each log that are shown first."""

POLL = 0.05
"""Seconds between two looks for new lines."""

COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
"""Of the prefixes, by place among the names, so that a component keeps its own."""

_BIRTH = re.compile(rb" stigmerd\[[a-z0-9_-]+\]: (?:Started|Restarted) ")


class Wish(NamedTuple):
    """What the operator wants to see. ``follow`` None: on a terminal only."""

    names: tuple[str, ...]
    include_daemon: bool
    follow: bool | None
    tail: int | None
    since: str | None
    grep: str | None
    previous: bool
    raw: bool


class Printer:
    """Writes lines to stdout: the bytes as they are into a pipe, escaped on a terminal."""

    def __init__(self, names: Sequence[str], *, raw: bool, pattern: re.Pattern[bytes] | None) -> None:
        self._prefixed = len(names) > 1 and not raw
        self._escaped = sys.stdout.isatty() and not raw
        self._pattern = pattern
        colour = wants_colour(sys.stdout)
        self._prefixes = {name: _prefix(name, number, colour=colour) for number, name in enumerate(sorted(names))}

    def show(self, lines: Iterable[Stamped]) -> None:
        """Print the lines that are wanted."""
        for line in lines:
            if self._pattern is None or self._pattern.search(line.data):
                prefix = self._prefixes[line.name] if self._prefixed else b""
                sys.stdout.buffer.write(prefix + self._shown(line.data))
        sys.stdout.buffer.flush()

    def _shown(self, data: bytes) -> bytes:
        if not self._escaped:
            return data if data.endswith(b"\n") or not self._prefixed else data + b"\n"
        return escape_bytes(data.removesuffix(b"\n").removesuffix(b"\r")).encode() + b"\n"


def logs(wish: Wish, *, home: str | None) -> int:
    """Print the last lines, and with ``follow`` go on until interrupted."""
    place = find_home(home)
    names = _chosen(wish, place)
    since = _since(wish.since)
    printer = Printer(names, raw=wish.raw, pattern=_pattern(wish.grep))
    follow = not wish.previous and (sys.stdout.isatty() if wish.follow is None else wish.follow)
    last = _last(wish)
    files = LogFiles(place)
    with ExitStack() as open_tails:
        tails = {name: open_tails.enter_context(LogTail(files.path(name), last=last)) for name in names}
        first = {name: _first(name, tail, wish, since) for name, tail in tails.items()}
        printer.show(interleave(first))
        while follow:
            time.sleep(POLL)
            printer.show(interleave({name: _new(name, tail) for name, tail in tails.items()}))
    return OK


def _chosen(wish: Wish, place: Home) -> tuple[str, ...]:
    known = known_names(place)
    own = (DAEMON,) if wish.include_daemon or DAEMON in wish.names else ()
    named = tuple(name for name in dict.fromkeys(wish.names) if name != DAEMON)
    check_names(named, known)
    if wish.names and not wish.include_daemon:
        return (*named, *own)
    return (*known, *own)


def _last(wish: Wish) -> int | None:
    """How many lines to read at first; None where a time, not a number, is the limit."""
    if wish.tail is not None and wish.tail < 0:
        raise usage_error(f"--tail {wish.tail}: give a number of lines, 0 or more")
    if wish.since is not None or wish.previous or wish.grep is not None:
        return None
    return LAST if wish.tail is None else wish.tail


def _first(name: str, tail: LogTail, wish: Wish, since: float | None) -> Sequence[Stamped]:
    """The lines of one log that are shown before the new ones."""
    lines: list[bytes] = []
    while more := tail.poll():
        lines += more
    lines += tail.flush()
    if wish.previous:
        lines = _life_before_last(lines)
    stamped = stamp(name, lines, time.time())
    if since is not None:
        stamped = [line for line in stamped if line.at >= since]
    if wish.tail is not None:
        return stamped[-wish.tail :] if wish.tail else []
    if wish.grep is not None and since is None and not wish.previous:
        pattern = re.compile(wish.grep.encode())
        return [line for line in stamped if pattern.search(line.data)][-LAST:]
    return stamped


def _life_before_last(lines: Sequence[bytes]) -> list[bytes]:
    births = [number for number, line in enumerate(lines) if _BIRTH.search(line)]
    if len(births) < 2:
        return []
    return list(lines[births[-2] : births[-1]])


def _new(name: str, tail: LogTail) -> Sequence[Stamped]:
    return stamp(name, tail.poll(), time.time(), time.time())


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    start = parse_since(text, time.time())
    if start is None:
        raise usage_error(f"--since {text!r}: give a duration such as 10m, or a time such as 2026-01-22T04:00:00Z")
    return start


def _pattern(text: str | None) -> re.Pattern[bytes] | None:
    if text is None:
        return None
    try:
        return re.compile(text.encode())
    except re.error as exc:
        raise usage_error(f"--grep {text!r} is no regular expression: {exc}") from exc


def _prefix(name: str, number: int, *, colour: bool) -> bytes:
    text = f"[{name}]"
    return (f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m " if colour else f"{text} ").encode()


