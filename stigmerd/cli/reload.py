"""``reload``: tells what a changed configuration changes, and has the daemon go over to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import msgspec

from stigmerd.adapters.disk.store import Home
from stigmerd.cli.errors import OK
from stigmerd.cli.escape import escape_line
from stigmerd.cli.paint import Line, Span, line, paint, wants_colour
from stigmerd.cli.progress import call_and_show, shown
from stigmerd.cli.reach import fetch_status, find_home, hint, reached
from stigmerd.cli.status import print_status
from stigmerd.control.client import RemoteError
from stigmerd.core.order import Change


def reload(*, dry_run: bool, home: str | None, quiet: bool, as_json: bool) -> int:
    """Show the plan; without ``dry_run`` carry it out, and show how what was begun is."""
    place = find_home(home)
    with reached(place) as client:
        try:
            answer = client.call("reload", dry_run=True, verbose=True)
        except RemoteError:
            if not dry_run:
                client.call("reload")  # is refused too, and `status` says so from then on
            raise
    plan = msgspec.convert(answer, Change)
    if not (quiet or as_json):
        _print_plan(plan, place, dry_run=dry_run)
    if not dry_run:
        # Also where nothing changes: the daemon may have a reload that failed to forget.
        display = shown(quiet=quiet or as_json or plan.is_empty)
        answer = call_and_show(place, "reload", plan.begun, {"verbose": True}, display, takes_names=False)
        if not (quiet or as_json):
            _print_outcome(place, msgspec.convert(answer, Change))
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    return OK


def _print_plan(plan: Change, place: Home, *, dry_run: bool) -> None:
    lines = [*plan_lines(plan)]
    if plan.is_empty:
        lines = [line("Nothing has changed.")]
    elif dry_run:
        lines.append(line(f"Nothing was touched. Apply it with: {hint('stigmer server reload', place)}"))
    sys.stdout.write(paint(lines, colour=wants_colour(sys.stdout)))
    sys.stdout.flush()


def plan_lines(plan: Change) -> Iterator[Line]:
    """One line for each component that the plan touches: what happens to it, and the keys that say so."""
    for name in plan.added:
        yield _line("+", "good", name, "added")
    for name in plan.removed:
        yield _line("-", "bad", name, "stopped and removed")
    for name in plan.changed:
        keys = ", ".join(plan.keys.get(name, ()))
        if name in plan.restarted:
            yield _line("↻", "busy", name, f"restarted: {keys}")
        elif name in plan.started:
            yield _line("+", "good", name, f"started: {keys}")
        elif name in plan.stopped:
            yield _line("-", "bad", name, f"stopped: {keys}")
        else:
            yield _line("~", "", name, f"changed without a restart: {keys}")
    for name in plan.following:
        yield _line("↻", "busy", name, "restarted with its dependency: on_dependency_restart")
    if plan.daemon:
        yield _line("~", "", "the daemon", f"changed: {', '.join(plan.daemon)}")


def _line(symbol: str, style: str, name: str, what: str) -> Line:
    return line(Span(symbol, style), f" {escape_line(name)}: {escape_line(what)}")


def _print_outcome(place: Home, done: Change) -> None:
    """How the components are that began a life; the others go on as they were."""
    if not done.begun:
        if not done.is_empty:
            sys.stdout.write("Done.\n")
        return
    with reached(place) as client:
        print_status(fetch_status(client, done.begun), as_json=False)
