"""Coverage-guided fuzzing of what reads strangers' bytes, by atheris: ``nox -s fuzz -- TARGET [libFuzzer options]``.

A target may raise what it documents, and nothing else.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from stigmerd.adapters.disk.store import EventFiles, Home, read_events, read_state
    from stigmerd.control.protocol import ProtocolError, decode_request, encode_error

RUNS = "-runs=200000"


def request(data: bytes) -> None:
    """One line on the control channel."""
    try:
        decode_request(data)
    except ProtocolError as error:
        encode_error(error.request_id, error.code, error.message)


def state(data: bytes) -> None:
    """``state.json`` and, after a zero byte, ``changes.jsonl``."""
    whole, _, changes = data.partition(b"\0")
    Path(_home.state, "state.json").write_bytes(whole)
    Path(_home.state, "changes.jsonl").write_bytes(changes)
    for one in read_state(_home).components.values():
        pids = (one.shown.pid, one.identity.pid if one.identity else None)
        assert all(pid is None or 1 < pid < 2**31 for pid in pids), pids


def history(data: bytes) -> None:
    """``events.jsonl`` and, after a zero byte, the file before it."""
    newer, _, older = data.partition(b"\0")
    Path(_home.state, "events.jsonl").write_bytes(newer)
    Path(_home.state, "events.jsonl.1").write_bytes(older)
    numbers = [entry.seq for entry in read_events(_home)]
    assert numbers == sorted({*numbers}), numbers
    EventFiles(_home).close()


TARGETS: dict[str, Callable[[bytes], None]] = {"request": request, "state": state, "history": history}

_folder = tempfile.TemporaryDirectory()
_home = Home.at(_folder.name)
_home.prepare()

if __name__ == "__main__":
    name, *options = [*sys.argv[1:], "request"] if len(sys.argv) == 1 else sys.argv[1:]
    atheris.Setup([sys.argv[0], *(options or [RUNS])], TARGETS[name])
    atheris.Fuzz()
