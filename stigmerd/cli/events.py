"""``events``: the history, from the files. A dead daemon's is as good as a living one's."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence

from stigmerd.adapters.store import EventTail
from stigmerd.cli.errors import OK, check_names, usage_error
from stigmerd.cli.escape import escape_line
from stigmerd.cli.paint import Line, Span, line, paint, wants_colour
from stigmerd.cli.reach import find_home
from stigmerd.cli.status import known_names
from stigmerd.cli.times import ago, local_time, parse_rfc3339, parse_since
from stigmerd.core.describe import describe
from stigmerd.core.event import Entry

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


def events(
    names: Sequence[str], *, follow: bool, since: str | None, tail: int | None, home: str | None, as_json: bool
) -> int:
    """Print the history, and with ``follow`` go on until interrupted."""
    place = find_home(home)
    start = _since(since)
    with EventTail(place) as history:
        kept = history.poll()
        check_names(names, {*known_names(place), *(entry.component for entry in kept if entry.component)})
        chosen = [entry for entry in kept if _is_wanted(entry, names, start)]
        _print(chosen[-tail:] if tail else chosen if tail is None else [], as_json=as_json)
        while follow:
            sys.stdout.flush()
            time.sleep(POLL)
            _print((entry for entry in history.poll() if _is_wanted(entry, names, start)), as_json=as_json)
    return OK


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    start = parse_since(text, time.time())
    if start is None:
        raise usage_error(f"--since {escape_line(text)}: give a duration (10m) or a time (2026-01-22T04:00:00Z)")
    return start


def _is_wanted(entry: Entry, names: Sequence[str], start: float | None) -> bool:
    if names and entry.component not in names:
        return False
    return start is None or (parse_rfc3339(entry.at) or 0.0) >= start


def _print(entries: Iterable[Entry], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.writelines(f"{json.dumps(entry.to_plain())}\n" for entry in entries)
        return
    now = time.time()
    sys.stdout.write(paint((render_event(entry, now) for entry in entries), colour=wants_colour(sys.stdout)))


def render_event(entry: Entry, now: float) -> Line:
    """One event on one line: when, whom, what."""
    who = escape_line(entry.component or "stigmerd")
    life = f"#{entry.life}" if entry.life is not None else ""
    return line(
        Span(f"{local_time(entry.at, now):>8} {ago(entry.at, now):>12}  ", "off"),
        Span(f"{who} ", "strong"),
        Span(f"{life} " if life else "", "off"),
        Span(escape_line(describe(entry)), STYLES.get(entry.event, "")),
    )
