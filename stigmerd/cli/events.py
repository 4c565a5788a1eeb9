"""``events``: the history, from the files. A dead daemon's is as good as a living one's."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from stigmerd.adapters.disk.output import DAEMON
from stigmerd.adapters.disk.store import EventTail
from stigmerd.cli.errors import OK, usage_error
from stigmerd.cli.escape import escape_line, quoted
from stigmerd.cli.follow import pause
from stigmerd.cli.names import check_names_in_files, recorded_names
from stigmerd.cli.paint import Line, Span, cells, line, paint, wants_colour
from stigmerd.cli.reach import find_home
from stigmerd.cli.times import ago, local_time, parse_rfc3339, parse_since
from stigmerd.core.describe import describe
from stigmerd.core.event import EVENTS, REASONS, Entry

POLL = 0.05
"""Seconds between two looks for new events."""

STYLES = {
    "running": "good",
    "ready": "good",
    "completed": "good",
    "adopted": "good",
    "failed": "bad",
    "start_failed": "bad",
    "unhealthy": "bad",
    "killed": "bad",
    "exited": "busy",
    "restarting": "busy",
    "unready": "busy",
    "waiting": "busy",
}


NAME_ROOM = 24
"""Columns that names are aligned to, unless they are longer."""


class Filter(NamedTuple):
    """Which events are shown; empty is all of them. ``start`` is an instant since the epoch."""

    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    start: float | None = None

    def wants(self, entry: Entry) -> bool:
        """Whether this event is one of them."""
        if self.start is not None and (parse_rfc3339(entry.at) or 0.0) < self.start:
            return False
        pairs = ((self.names, entry.component), (self.kinds, entry.event), (self.reasons, entry.reason))
        return all(not wanted or value in wanted for wanted, value in pairs)


def events(
    names: Sequence[str],
    *,
    kinds: Sequence[str],
    reasons: Sequence[str],
    follow: bool,
    since: str | None,
    tail: int | None,
    home: str | None,
    as_json: bool,
) -> int:
    """Print the history, and with ``follow`` go on until interrupted."""
    place = find_home(home)
    _check_words("event", kinds, EVENTS)
    _check_words("reason", reasons, REASONS)
    if tail is not None and tail < 0:
        raise usage_error("--tail: give a number of events, 0 or more")
    chosen = Filter(tuple(names), tuple(kinds), tuple(reasons), _since(since))
    is_plain = not (names or kinds or reasons or since)
    with EventTail.of_last(place, tail if is_plain else None) as history:
        kept = history.poll()
        known = dict.fromkeys([*recorded_names(place), *(entry.component for entry in kept if entry.component)])
        check_names_in_files(place, names, known)
        room = min(NAME_ROOM, max((cells(escape_line(name)) for name in names or [*known, DAEMON]), default=0))
        wanted = list(filter(chosen.wants, kept))
        _print(wanted[len(wanted) - tail if tail is not None and tail < len(wanted) else 0 :], room, as_json=as_json)
        while follow:
            sys.stdout.flush()
            pause(POLL)
            _print(filter(chosen.wants, history.poll()), room, as_json=as_json)
    return OK


def _check_words(kind: str, given: Sequence[str], known: Collection[str]) -> None:
    """Refuse a word that no event has, with the nearest one."""
    from difflib import get_close_matches

    for word in given:
        if word not in known:
            near = get_close_matches(word, known, n=1, cutoff=0.5)
            guess = f"Did you mean {quoted(near[0])}?" if near else f"There are: {', '.join(sorted(known))}."
            raise usage_error(f"There is no {kind} {quoted(word)}. {guess}")


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    start = parse_since(text, time.time())
    if start is None:
        raise usage_error(f"--since {escape_line(text)}: give a duration (10m) or a time (2026-01-22T04:00:00Z)")
    return start


def _print(entries: Iterable[Entry], room: int, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.writelines(f"{json.dumps(entry.to_plain())}\n" for entry in entries)
        return
    now = time.time()
    sys.stdout.write(paint((render_event(entry, now, room) for entry in entries), colour=wants_colour(sys.stdout)))


def render_event(entry: Entry, now: float, room: int = 0) -> Line:
    """One event on one line: when, whom in at least ``room`` columns, what."""
    who = escape_line(entry.component or DAEMON)
    who += " " * (room - cells(who))
    life = f"#{entry.life}" if entry.life is not None else ""
    return line(
        Span(f"{local_time(entry.at, now):>8} {ago(entry.at, now):>12}  ", "off"),
        Span(f"{who} ", "strong"),
        Span(f"{life} " if life else "", "off"),
        Span(escape_line(describe(entry)), STYLES.get(entry.event, "")),
    )
