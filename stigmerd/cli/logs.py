"""``logs``: what components wrote, from their files, whether a daemon runs or not."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite
from typing import NamedTuple, Protocol

from stigmerd.adapters.disk.output import DAEMON, LogTail
from stigmerd.adapters.disk.store import Home
from stigmerd.cli.errors import OK, usage_error
from stigmerd.cli.escape import escape_bytes, escape_line
from stigmerd.cli.follow import pause
from stigmerd.cli.logtime import Stamped, interleave, stamp
from stigmerd.cli.names import check_names_in_files, recorded_names
from stigmerd.cli.paint import STYLES, wants_colour
from stigmerd.cli.reach import find_home
from stigmerd.cli.times import parse_since
from stigmerd.core.instant import rfc3339

DEFAULT_TAIL = 50

POLL = 0.04
"""Seconds between two looks at the files: a line is shown within 100 ms."""

BURST = 64
"""Reads of one log before the others have their turn."""

COLOURS = (
    "cyan",
    "magenta",
    "blue",
    "good",
    "busy",
    "bright_cyan",
    "bright_magenta",
    "bright_blue",
    "bright_green",
    "bright_yellow",
)


class Wish(NamedTuple):
    """What the operator asked for. ``follow`` None: on a terminal. ``tail`` None: the default."""

    names: tuple[str, ...] = ()
    include_daemon: bool = False
    follow: bool | None = None
    tail: int | None = None
    since: str | None = None
    grep: str | None = None
    previous: bool = False
    raw: bool = False
    as_json: bool = False


class Selection(NamedTuple):
    """Which lines are shown. ``start`` is an instant since the epoch."""

    start: float | None
    pattern: re.Pattern[bytes] | None

    def wants(self, entry: Stamped) -> bool:
        """Whether this line is one of them."""
        if self.start is not None and entry.at < self.start:
            return False
        return self.pattern is None or self.pattern.search(entry.data) is not None


def logs(wish: Wish, *, home: str | None) -> int:
    """Print the last lines, and with ``follow`` go on until interrupted."""
    place = find_home(home)
    names = _chosen(place, wish)
    selection = _selection(wish)
    if wish.raw and wish.as_json:
        raise usage_error("--raw and --json exclude each other: JSON is text")
    if not names:
        sys.stderr.write(f"There are no logs in {escape_line(place.logs)} yet.\n")
        return OK
    printer = JsonPrinter() if wish.as_json else TextPrinter(names, recorded_names(place), raw=wish.raw)
    is_followed = (sys.stdout.isatty() if wish.follow is None else wish.follow) and not wish.previous
    with ExitStack() as stack:
        is_timed = len(names) > 1 or wish.since is not None or wish.as_json
        readers = [Reader(name, stack.enter_context(_open(place, name, wish)), is_timed=is_timed) for name in names]
        past = {reader.name: _past(reader, wish, selection, is_whole=not is_followed) for reader in readers}
        for entry in interleave(past):
            printer.write(entry)
        fresh = selection._replace(start=None)  # what comes now is young, whatever time it tells
        while is_followed:
            printer.flush()
            pause(POLL)
            new = {reader.name: [entry for entry in reader.read(BURST) if fresh.wants(entry)] for reader in readers}
            for entry in interleave(new):
                printer.write(entry)
    printer.flush()
    return OK


def _chosen(place: Home, wish: Wish) -> list[str]:
    """The names of the logs to read, each once."""
    components = recorded_names(place)
    on_disk = sorted(name.removesuffix(".log") for name in _listed(place.logs) if name.endswith(".log"))
    if wish.names:
        check_names_in_files(place, wish.names, list(dict.fromkeys([*components, *on_disk])))
        names = list(wish.names)
    else:
        names = components or [name for name in on_disk if name != DAEMON]
    return list(dict.fromkeys([*names, *([DAEMON] if wish.include_daemon else [])]))


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _selection(wish: Wish) -> Selection:
    start = None if wish.since is None else parse_since(wish.since, time.time())
    if wish.since is not None and start is None:
        raise usage_error(
            f"--since {escape_line(wish.since)}: give a duration (10m) or a time (2026-01-22T04:00:00Z)"
        )
    if wish.tail is not None and wish.tail < 0:
        raise usage_error("--tail: give a number of lines, 0 or more")
    try:
        pattern = None if wish.grep is None else re.compile(os.fsencode(wish.grep))
    except re.error as exc:
        raise usage_error(f"--grep {escape_line(wish.grep or '')}: {exc}") from exc
    return Selection(start, pattern)


def _open(place: Home, name: str, wish: Wish) -> LogTail:
    """The log, from where on it may hold lines to show."""
    is_searched = wish.since is not None or wish.grep is not None or wish.previous
    last = None if is_searched and wish.tail != 0 else DEFAULT_TAIL if wish.tail is None else wish.tail
    return LogTail(os.path.join(place.logs, f"{name}.log"), last=last)


class Reader:
    """One log, read as stamped lines: the last time that it told is remembered.

    Where nobody asks for times (``is_timed``) they are not looked for: that takes longer than the reading.
    """

    def __init__(self, name: str, tail: LogTail, *, is_timed: bool) -> None:
        self.name = name
        self._tail = tail
        self._is_timed = is_timed
        self._before: float | None = None
        self._missed = 0

    def read(self, limit: int) -> list[Stamped]:
        """The lines that are there now, as far as ``limit`` reads bring them."""
        lines: list[bytes] = []
        for _ in range(limit):
            more = self._tail.poll()
            if not more:
                break
            lines += more
        self._tell_missed()
        return self._stamp(lines)

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was there in the beginning has been read."""
        return self._tail.is_caught_up

    def rest(self) -> list[Stamped]:
        """What has been written of a last line without its end."""
        return self._stamp(self._tail.flush())

    def _stamp(self, lines: Sequence[bytes]) -> list[Stamped]:
        if not self._is_timed:
            return [Stamped(float("-inf"), self.name, data) for data in lines]
        entries = stamp(self.name, lines, time.time(), self._before)
        if entries and entries[-1].at != float("-inf"):
            self._before = entries[-1].at
        return entries

    def _tell_missed(self) -> None:
        if self._tail.missed > self._missed:
            count, self._missed = self._tail.missed - self._missed, self._tail.missed
            sys.stderr.write(f"{escape_line(self.name)}: {count} bytes were rotated away before they could be shown\n")


def _past(reader: Reader, wish: Wish, selection: Selection, *, is_whole: bool) -> Sequence[Stamped]:
    """The lines that are there already and are asked for. ``is_whole``: a line without an end counts."""
    lives = _Lives(reader.name) if wish.previous else None
    limit = wish.tail
    if limit is None and (wish.grep is not None or wish.since is None) and lives is None:
        limit = DEFAULT_TAIL
    kept: deque[Stamped] = deque(maxlen=limit)
    take = lives.take if lives is not None else kept.append
    while not reader.is_caught_up and (entries := reader.read(1)):
        for entry in filter(selection.wants, entries) if lives is None else entries:
            take(entry)
    for entry in reader.rest() if is_whole else ():
        take(entry)
    if lives is not None:
        kept.extend(filter(selection.wants, lives.previous()))
    return kept


class _Lives:
    """Tells apart what the lives of a component wrote, by what the daemon noted between them.

    One life ends with the note of its exit. The note of its birth may come after the first lines
    of a quick child, so it tells only that there is a life.
    """

    def __init__(self, name: str) -> None:
        escaped = re.escape(name.encode())
        self._note = re.compile(rb"\S+Z stigmerd\[" + escaped + rb"\]: (Started|Restarted|Exited) " + escaped + rb"\b")
        self._ended: deque[list[Stamped]] = deque(maxlen=2)
        self._present: list[Stamped] = []
        self._is_born = False

    def take(self, entry: Stamped) -> None:
        """Add the next line."""
        self._present.append(entry)
        note = self._note.match(entry.data)
        if note is None:
            return
        self._is_born = note[1] != b"Exited"
        if not self._is_born:
            self._ended.append(self._present)
            self._present = []

    def previous(self) -> Sequence[Stamped]:
        """What the life before the last one wrote."""
        lives = [*self._ended, *([self._present] if self._is_born else [])]
        return lives[-2] if len(lives) > 1 else []


class Printer(Protocol):
    """Where lines go."""

    def write(self, entry: Stamped) -> None:
        """Write one line."""
        ...

    def flush(self) -> None:
        """Bring to the screen what was written."""
        ...


class JsonPrinter:
    """Writes an object per line to stdout. ``at`` is the instant that the line sorts by, null if unknown."""

    def write(self, entry: Stamped) -> None:
        """Write one line."""
        text = entry.data.removesuffix(b"\n").decode("utf-8", "backslashreplace")
        at = rfc3339(entry.at) if isfinite(entry.at) else None
        sys.stdout.write(json.dumps({"component": entry.name, "at": at, "line": text}) + "\n")

    def flush(self) -> None:
        """Bring to the reader what was written."""
        sys.stdout.flush()


class TextPrinter:
    """Writes lines to stdout: escaped to a terminal, as they are to anything else.

    Lines of several logs carry their log's name, but for ``raw``.
    """

    def __init__(self, names: Sequence[str], known: Sequence[str], *, raw: bool) -> None:
        sys.stdout.flush()
        self._out = sys.stdout.buffer
        self._is_escaped = sys.stdout.isatty() and not raw
        self._has_prefix = len(names) > 1 and not raw
        # By the place among all components, so that one has the same colour whoever it is shown with.
        order = sorted({*known, *names})
        self._styles = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(order)}
        self._is_coloured = wants_colour(sys.stdout)

    def write(self, entry: Stamped) -> None:
        """Write one line."""
        data = entry.data
        if self._is_escaped:
            line = data.removesuffix(b"\n").removesuffix(b"\r")  # the end of a line, not a control in it
            data = f"{escape_bytes(line)}\n".encode()
        elif self._has_prefix and not data.endswith(b"\n"):
            data += b"\n"
        self._out.write(self._prefix(entry.name) + data if self._has_prefix else data)

    def flush(self) -> None:
        """Bring to the screen what was written."""
        self._out.flush()

    def _prefix(self, name: str) -> bytes:
        text = f"[{escape_line(name)}]"
        if self._is_coloured:
            text = f"\x1b[{STYLES[self._styles[name]]}m{text}\x1b[0m"
        return f"{text} ".encode()
