"""``status``: the stack at a glance, from the daemon, or as a dead daemon left it.

On the fast path: what only a dead daemon's state needs is imported when it is read.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from stigmerd.adapters.disk.home import Home
from stigmerd.cli.errors import FAILED, NOT_RUNNING, OK, CommandError
from stigmerd.cli.names import check_names_in_files
from stigmerd.cli.paint import paint, screen_width, wants_colour
from stigmerd.cli.reach import fetch_status, find_home, other_protocol, reached
from stigmerd.cli.render import render_status
from stigmerd.cli.times import parse_rfc3339
from stigmerd.core.status import ComponentDocument, StatusDocument, to_plain

if TYPE_CHECKING:
    from stigmerd.core.record import ComponentRecord, Identity


def status(names: Sequence[str], *, home: str | None, verbose: bool, as_json: bool) -> int:
    """Print the status. 0: healthy; 1: not; 3: no daemon, and these are the last known states."""
    place = find_home(home)
    try:
        with reached(place, any_protocol=True) as client:  # status has one form in every protocol
            mismatch = other_protocol(client, place)
            document = fetch_status(client, names, verbose=verbose)
    except CommandError as exc:
        if exc.exit_code != NOT_RUNNING:
            raise
        print_status(last_known(place, names), verbose=verbose, as_json=as_json)
        raise
    print_status(document, verbose=verbose, as_json=as_json)
    if mismatch is not None:
        raise mismatch
    return OK if document.healthy else FAILED


def print_status(document: StatusDocument, *, verbose: bool = False, as_json: bool = False) -> None:
    """Write the document to stdout, as JSON or as a table that fits the terminal."""
    if as_json:
        # ASCII: a component's text may hold what is no Unicode.
        sys.stdout.write(json.dumps(to_plain(document)) + "\n")
        return
    if not document.components and document.daemon is None:
        return  # there is nothing to show, and the error says why
    lines = render_status(document, now=time.time(), width=screen_width(sys.stdout), verbose=verbose)
    sys.stdout.write(paint(lines, colour=wants_colour(sys.stdout)))


def last_known(home: Home, names: Sequence[str] = ()) -> StatusDocument:
    """The status as a daemon that is gone left it, with a look at which processes are still alive.

    Raises:
        CommandError: a name that neither the state nor the configuration knows.
    """
    from stigmerd.adapters.disk.store import read_state

    records = read_state(home).components
    check_names_in_files(home, names, records)
    alive = _still_alive(home) if records else set()
    chosen = (record for name, record in records.items() if not names or name in names)
    shown = tuple(_as_last_seen(home, record, has_survivors=record.name in alive) for record in chosen)
    return StatusDocument(daemon=None, healthy=False, components=shown)


def _still_alive(home: Home) -> set[str]:
    """The components of which anything is alive, be it what a dead leader left."""
    from stigmerd.adapters.processes.identity import find_ours

    return {found.component for found in find_ours(home.path)}


def _as_last_seen(home: Home, record: ComponentRecord, *, has_survivors: bool) -> ComponentDocument:
    alive = has_survivors or _is_alive(home, record.identity)
    started = parse_rfc3339(record.shown.started_at) if alive else None
    uptime = round(max(0.0, time.time() - started), 3) if started is not None else None
    return msgspec.structs.replace(record.shown, alive=alive, uptime=uptime)


def _is_alive(home: Home, identity: Identity | None) -> bool | None:
    """Whether the life is provably there still; None where only a Docker Engine could tell that is not there."""
    if identity is not None and identity.container_id is not None:
        from stigmerd.cli.containers import is_running

        return is_running(home, identity)
    if identity is not None and identity.pid is not None:
        from stigmerd.adapters.processes.identity import is_alive

        return is_alive(identity)
    return False
