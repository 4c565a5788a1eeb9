"""``status --watch``: a live view, fed by the daemon's own notifications, not by polling.

On a terminal the table with the newest events under it; into a pipe one snapshot per change.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from stigmerd.adapters.store import EventTail, Home
from stigmerd.cli.errors import OK
from stigmerd.cli.events import render_event
from stigmerd.cli.paint import Line, line, screen_width, to_rich
from stigmerd.cli.reach import find_home, narrow, open_client, reached, to_document
from stigmerd.cli.render import render_status
from stigmerd.cli.status import last_known, print_status
from stigmerd.control.client import ConnectionLostError, ControlError, DeadlinePassedError
from stigmerd.core.status import StatusDocument, to_plain

TICK = 0.5
"""Seconds between two redraws without any news: uptimes and countdowns move."""

EVENTS = 8
"""Newest events under the table."""


def watch(names: Sequence[str], *, home: str | None, verbose: bool, as_json: bool) -> int:
    """Show the status until interrupted, across restarts of the daemon."""
    place = find_home(home)
    with reached(place):
        pass  # without a daemon there is nothing to watch, and the operator is told
    if as_json or not sys.stdout.isatty():
        return _print_changes(place, names, verbose=verbose, as_json=as_json)
    return _live(place, names, verbose=verbose)


def _print_changes(place: Home, names: Sequence[str], *, verbose: bool, as_json: bool) -> int:
    for document in _documents(place, names):
        if document is None:
            continue
        if as_json:
            sys.stdout.write(json.dumps(to_plain(document)) + "\n")
        else:
            print_status(document, verbose=verbose)
        sys.stdout.flush()
    return OK


def _live(place: Home, names: Sequence[str], *, verbose: bool) -> int:
    from rich.console import Console
    from rich.live import Live

    newest: deque[Line] = deque(maxlen=EVENTS)
    shown = last_known(place, names)
    console = Console()
    with EventTail(place) as history, Live(console=console, screen=True, auto_refresh=False) as live:
        for document in _documents(place, names):
            shown = document or shown
            now = time.time()
            newest.extend(render_event(entry, now) for entry in history.poll())
            width = screen_width(sys.stdout)
            lines = [*render_status(shown, now=now, width=width, verbose=verbose), line(), *newest]
            live.update(to_rich(lines[: console.size.height]), refresh=True)
    return OK


def _documents(place: Home, names: Sequence[str]) -> Iterator[StatusDocument | None]:
    """Each change of the status; None each half second without one. Without a daemon, what is known."""
    while True:
        try:
            with open_client(place) as client:
                client.call("status.subscribe")
                yield from _told(client, names)
        except ControlError:
            yield last_known(place, names)
            time.sleep(TICK)


def _told(client: Any, names: Sequence[str]) -> Iterator[StatusDocument | None]:  # noqa: ANN401  (a Client)
    while True:
        try:
            notification = client.next_notification(time.monotonic() + TICK)
        except DeadlinePassedError:
            yield None
            continue
        except ConnectionLostError:
            return
        yield narrow(to_document(notification.params), names)
