"""Shows long work while it goes on: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from stigmerd.adapters.disk.store import Home
from stigmerd.cli.escape import escape_line
from stigmerd.cli.paint import Line, Span, cut_line, line, paint, screen_width, to_rich, wants_colour
from stigmerd.cli.reach import explained, narrow, open_client, to_document
from stigmerd.cli.render import remarks, table
from stigmerd.cli.table import symbol_of
from stigmerd.control.client import ConnectionLostError, ControlError, DeadlinePassedError
from stigmerd.core.status import ComponentDocument, StatusDocument

TICK = 0.05
"""Seconds between two looks whether the answer is there."""


class Progress(Protocol):
    """Where snapshots go."""

    def show(self, document: StatusDocument) -> None:
        """Show how things are now."""
        ...


class Silence:
    """Shows nothing: for ``--quiet`` and ``--json``."""

    def show(self, document: StatusDocument) -> None:
        """Show nothing."""


class Lines:
    """A line for each component whose state has changed since it was last shown.

    Unless ``all_is_new``, how things were at first is no change.
    """

    def __init__(self, *, all_is_new: bool) -> None:
        self._seen: dict[str, tuple[str, str]] | None = {} if all_is_new else None

    def show(self, document: StatusDocument) -> None:
        """Print what has changed."""
        before = self._seen
        self._seen = {component.name: (component.state, component.reason) for component in document.components}
        if before is None:
            return
        for component in document.components:
            if self._seen[component.name] != before.get(component.name):
                self._print(component)
        sys.stdout.flush()

    def _print(self, component: ComponentDocument) -> None:
        said = f" {escape_line(component.name)} {escape_line(component.state)}"
        why: Line = ()
        if component.state not in {"running", "completed", "stopped"}:
            notes = [line(escape_line(component.reason))] if component.reason else remarks(component, time.time())
            why = line(": ", *notes[0]) if notes else ()
        spans = line(symbol_of(component), said, *why)
        sys.stdout.write(paint([spans], colour=wants_colour(sys.stdout)))


MOVING = ("starting", "restarting", "stopping", "failed", "waiting")
"""The states that somebody waits to see the end of, in the order of their interest."""


def progress_lines(components: Sequence[ComponentDocument], *, now: float, width: int, height: int) -> list[Line]:
    """How many are how, and the status table; of one that is higher than the screen, what is still moving."""
    counts = Counter(component.state for component in components)
    heading = line(", ".join(f"{count} {escape_line(state)}" for state, count in counts.items()))
    rows = table(components, now=now, width=width)
    room = height - 2  # for the heading, and for the cursor below
    if len(rows) > room:
        moving = [component for component in components if component.state in MOVING or not component.ready]
        moving = [component for component in moving if component.state not in {"stopped", "completed"}]
        moving.sort(key=lambda component: (*MOVING, component.state).index(component.state))
        rows = table(moving or components, now=now, width=width)
    if len(rows) > room:
        rows = [*rows[: room - 1], line(Span("…", "faint"))]
    return [cut_line(spans, width) for spans in (heading, *rows)]


class Table:
    """The status table, redrawn in place."""

    def __init__(self, update: Callable[[Any], None]) -> None:
        self._update = update

    def show(self, document: StatusDocument) -> None:
        """Redraw."""
        width, height = screen_width(sys.stdout) or 80, os.get_terminal_size(sys.stdout.fileno()).lines or 24
        self._update(to_rich(progress_lines(document.components, now=time.time(), width=width, height=height)))


@contextmanager
def shown(*, quiet: bool, all_is_new: bool = False) -> Iterator[Progress]:
    """The progress display that fits stdout; what it drew in place is gone at the end of the block."""
    if quiet:
        yield Silence()
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.live import Live

        from stigmerd.cli.terminal import ended_by_signals

        with ended_by_signals(), Live(console=Console(), transient=True, refresh_per_second=8) as live:
            yield Table(live.update)
    else:
        yield Lines(all_is_new=all_is_new)


class _Call(threading.Thread):
    """One request on a connection of its own, so that snapshots can be shown while it is worked on."""

    def __init__(self, home: Home, method: str, params: dict[str, Any]) -> None:
        super().__init__(daemon=True)  # Ctrl-C ends the waiting, not the work
        self._home, self._method, self._params = home, method, params
        self._result: dict[str, Any] = {}
        self._error: ControlError | None = None

    def run(self) -> None:
        try:
            with open_client(self._home, any_protocol=self._method == "shutdown") as client:
                self._result = client.call(self._method, **self._params)
        except ControlError as exc:
            self._error = exc

    def result(self) -> dict[str, Any]:
        """The answer, or the error that came instead."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._result


def call_and_show(
    home: Home,
    method: str,
    names: Sequence[str],
    params: dict[str, Any],
    display: AbstractContextManager[Progress],
    *,
    takes_names: bool = True,
) -> dict[str, Any]:
    """Have the daemon do something, and show how it goes until it answers: of the named components, if any.

    Raises:
        CommandError: it was refused, or the daemon ended before it was done.
    """
    call = _Call(home, method, {**params, "names": list(names)} if names and takes_names else params)
    with explained(home), open_client(home, any_protocol=method == "shutdown") as watcher, display as progress:
        watcher.call("status.subscribe")
        call.start()
        while call.is_alive():
            try:
                notification = watcher.next_notification(time.monotonic() + TICK)
            except DeadlinePassedError:
                continue
            except ConnectionLostError:
                break  # at the end of a shutdown; the answer says the rest
            progress.show(narrow(to_document(notification.params), names))
        return call.result()
