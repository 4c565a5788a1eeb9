"""The state on disk: what the next daemon needs to go on where this one stopped.

``state.json`` is the whole of it, readable, as of some moment; ``changes.jsonl`` is what changed
since, one line a change, so that a restart costs one small write however many components there
are. Every change has a number, and the state says up to which one it holds: a change at or below
it counts for nothing, so the two files may be replaced one after the other and a crash in between
loses and repeats nothing. Of each file the one before (``.1``) is kept, and together they give the
same state, should ``state.json`` be damaged.

What the records mean is the engine's business; here it is only decided whether they can be trusted
to be what they say.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from stigmerd.adapters.disk.files import LineFile, make_private_folder, read_regular, remove, replace_file
from stigmerd.adapters.disk.home import Home
from stigmerd.core.lifecycle import FailedBecause, Phase
from stigmerd.core.record import SCHEMA, ComponentRecord, DaemonRecord
from stigmerd.core.status import ComponentDocument

_STATE_LIMIT = 64 * 1024 * 1024
_CHANGES_LIMIT = 256 * 1024 * 1024
_BAD_KEPT = 5
"""How many files that were set aside are kept, of each name."""

_MAX_NUMBER = 2**31 - 1
"""No pid and no honest counter is above it."""

_MAX_SECONDS = 2.0**40
"""No honest clock and no duration is above it: 34,000 years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was found. ``components`` are in the order of the file, ``problems`` sentences for the
    operator; ``last_seq`` is the highest event number that the state knows of."""

    daemon: DaemonRecord | None = None
    components: dict[str, ComponentRecord] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    last_seq: int = 0


class _Document(msgspec.Struct, kw_only=True):
    """``state.json``. ``sequence`` is the number of the last change in it.

    ``past_lives`` are the last life numbers of components that were removed: should one come back,
    its lives must not be taken for those that the history knows already.
    """

    schema: int = SCHEMA
    sequence: int = 0
    last_seq: int = 0
    daemon: DaemonRecord | None = None
    components: dict[str, ComponentRecord] = msgspec.field(default_factory=dict)
    past_lives: dict[str, int] = msgspec.field(default_factory=dict)


class _Change(msgspec.Struct, kw_only=True):
    """One line of ``changes.jsonl``; one of the last three is set."""

    schema: int
    sequence: int
    put: ComponentRecord | None = None
    forget: str | None = None
    daemon: DaemonRecord | None = None


class _Schema(msgspec.Struct):
    """As much of any version's ``state.json`` as tells which version it is."""

    schema: int


_documents = msgspec.json.Decoder(_Document)
_changes = msgspec.json.Decoder(_Change)
_schemas = msgspec.json.Decoder(_Schema)


class _UnusableError(ValueError):
    """A file is what it should be, but must not be used. The message says why."""


class StateFiles:
    """The engine's ``StateStore``. :meth:`load` comes first.

    ``put``, ``forget`` and ``set_daemon`` belong to the loop's thread and cost one small write
    each. ``checkpoint`` belongs to a worker thread: it takes what there is under the lock, and
    writes without it, so that the loop never waits for an fsync.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._path = _state_path(home)
        self._changes = LineFile(_changes_path(home))
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        """One checkpoint at a time: the last one may find the one before it still at work."""
        self._document = _Document()
        self._unwritten: dict[str, bytes] = {}
        """Lines that the disk refused, by what they are about; a newer one replaces an older."""
        self._saved_sequence = -1
        self._saved_content = b""
        self._split = 0
        """Up to which change ``changes.jsonl.1`` may hold some."""
        self._append_problem: str | None = None
        self._save_problem: str | None = None

    @property
    def problem(self) -> str | None:
        """One sentence about what keeps the state from the disk now, or None."""
        return self._append_problem or self._save_problem

    def load(self) -> Loaded:
        """Read what the last daemon left; set aside, by renaming, what cannot be used. Never raises."""
        found = _read(self._home)
        for path in found.bad:
            _set_aside(path)
        with self._lock:
            self._document = found.document
            self._split = found.split
            self._saved_sequence = found.saved_sequence
            self._saved_content = found.saved_content
        return found.to_loaded()

    def put(self, record: ComponentRecord) -> None:
        """Keep the newest record of a component: the daemon may die right after. Never raises."""
        with self._lock:
            _put(record, self._document)
            self._write_change(record.name, put=record)

    def forget(self, component: str) -> None:
        """Drop the record of a component that was removed from the configuration. Never raises."""
        with self._lock:
            _forget(component, self._document)
            self._write_change(component, forget=component)

    def last_life(self, component: str) -> int:
        """The number of a component's last life, removed since or not; 0 if it never had one."""
        record = self._document.components.get(component)
        return record.life if record is not None else self._document.past_lives.get(component, 0)

    def recall(self, lives: Mapping[str, int]) -> None:
        """Learn of lives that are known from elsewhere only, where the records of them were lost."""
        with self._lock:
            self._document.past_lives.update(lives)

    def set_daemon(self, record: DaemonRecord) -> None:
        """Keep the daemon's own record. Never raises."""
        with self._lock:
            self._document.daemon = record
            self._write_change("", daemon=record)

    def checkpoint(self, *, last_seq: int = 0) -> None:
        """Write ``state.json`` if there is anything new, and what the disk refused before. Never raises.

        To be called once a second, and at the end. ``last_seq`` is the highest event number.
        """
        with self._saving:
            with self._lock:
                self._document.last_seq = max(self._document.last_seq, last_seq)
                self._write_unwritten()
                if self._document.sequence == self._saved_sequence and os.path.lexists(self._path):
                    return
            fresh = LineFile(f"{_changes_path(self._home)}.tmp")
            _reserve(fresh)
            with self._lock:
                snapshot = msgspec.structs.replace(
                    self._document,
                    components=dict(self._document.components),
                    past_lives=dict(self._document.past_lives),
                )
                self._start_new_changes(fresh)
            self._save(snapshot)
            with self._lock:
                _reserve(self._changes)

    def _save(self, snapshot: _Document) -> None:
        """Write ``state.json``, and what it was to ``state.json.1``."""
        content = msgspec.json.format(_to_json(snapshot), indent=1) + b"\n"
        try:
            make_private_folder(self._home.state)
            if self._saved_content:
                replace_file(f"{self._path}.1", self._saved_content, durable=False)
            replace_file(self._path, content, durable=True)
        except OSError as exc:
            self._save_problem = _cannot_write(self._path, exc)
            return
        self._save_problem = None
        self._saved_content = content
        with self._lock:
            self._saved_sequence = snapshot.sequence

    def close(self) -> None:
        """Give back the descriptor. Nothing is written: :meth:`checkpoint` comes before."""
        self._changes.close()

    def _write_change(
        self,
        about: str,
        *,
        put: ComponentRecord | None = None,
        forget: str | None = None,
        daemon: DaemonRecord | None = None,
    ) -> None:
        self._document.sequence += 1
        change = _Change(schema=SCHEMA, sequence=self._document.sequence, put=put, forget=forget, daemon=daemon)
        self._unwritten.pop(about, None)  # to the end: the file is in the order of the numbers
        self._unwritten[about] = _to_json(change) + b"\n"
        self._write_unwritten()

    def _write_unwritten(self) -> None:
        try:
            for about, line in list(self._unwritten.items()):
                self._changes.append(line)
                del self._unwritten[about]
        except OSError as exc:
            self._append_problem = _cannot_write(self._changes.path, exc)
        else:
            self._append_problem = None

    def _start_new_changes(self, fresh: LineFile) -> None:
        """Make the present changes the ones before, and ``fresh`` the present ones.

        Only if ``state.json`` holds all that the ones before have: it becomes ``state.json.1``
        now, and must still be completed by the two files of changes. And only if there is room for
        new ones: on a disk that is full, what the present file has reserved is all there is.
        """
        former = self._changes
        if not fresh.is_reserved or self._saved_sequence < self._split:
            fresh.close()
            return
        with contextlib.suppress(OSError):
            former.rename(f"{former.path}.1")
            self._split = self._document.sequence
            fresh.rename(_changes_path(self._home))
            self._changes = fresh
        former.close()


def _reserve(changes: LineFile) -> None:
    with contextlib.suppress(OSError):  # a full disk is said where it keeps something from being written
        changes.reserve()


def note_stopped(home: Home, names: Sequence[str]) -> None:
    """Remember that an operator stopped components while no daemon ran; without names: everything.

    The next daemon leaves the named ones stopped; after everything it starts afresh.

    Raises:
        HomeError: a daemon has the home now, and knows better.
    """
    lock = home.take_lock()
    try:
        state = StateFiles(home)
        loaded = state.load()
        for name, record in loaded.components.items():
            if name in names:
                record = msgspec.structs.replace(record, phase="DOWN", wanted=False, due_boot=None)
            if name in names or (not names and record.shown.state not in {"failed", "completed"}):
                state.put(msgspec.structs.replace(record, shown=_as_stopped(record.shown)))
        if not names and loaded.daemon is not None:
            state.set_daemon(msgspec.structs.replace(loaded.daemon, clean=True))
        state.checkpoint(last_seq=loaded.last_seq)
        state.close()
    finally:
        os.close(lock)


def _as_stopped(shown: ComponentDocument) -> ComponentDocument:
    return msgspec.structs.replace(
        shown,
        state="stopped",
        healthy=True,
        ready=False,
        reason="",
        next_start_at=None,
        pid=None,
        container_id=None,
        adopted=False,
        started_at=None,
        uptime=None,
    )


def read_state(home: Home) -> Loaded:
    """What the state says, for a client while no daemon runs. Changes nothing, never raises."""
    return _read(home).to_loaded()


def _state_path(home: Home) -> str:
    return os.path.join(home.state, "state.json")


def _changes_path(home: Home) -> str:
    return os.path.join(home.state, "changes.jsonl")


@dataclass(slots=True, kw_only=True)
class _Found:
    """What reading came to. ``saved_*`` are of ``state.json``, -1 and empty where it is unusable."""

    document: _Document = field(default_factory=_Document)
    saved_sequence: int = -1
    saved_content: bytes = b""
    split: int = 0
    problems: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def to_loaded(self) -> Loaded:
        return Loaded(
            daemon=self.document.daemon,
            components=_in_order(self.document),
            problems=self.problems,
            last_seq=self.document.last_seq,
        )


def _in_order(document: _Document) -> dict[str, ComponentRecord]:
    """The records in the order of the file, and last those that it did not have."""
    records = document.components
    order = document.daemon.order if document.daemon is not None else ()
    return {name: records[name] for name in order if name in records} | records


def _read(home: Home) -> _Found:
    """Read everything, changes before states: a daemon that goes on writing moves them the other way."""
    found = _Found()
    path = _changes_path(home)
    newer = _read_changes(path, found)
    older = _read_changes(f"{path}.1", found)
    found.split = max((change.sequence for change in older), default=0)
    _read_document(_state_path(home), found)
    for change in sorted(older + newer, key=lambda change: change.sequence):
        if change.sequence > found.document.sequence:
            _apply(change, found.document)
    _drop_own_pid(found)
    return found


def _read_document(path: str, found: _Found) -> None:
    """The newest state that can be used, else an empty one."""
    for candidate in (path, f"{path}.1"):
        try:
            content = read_regular(candidate, _STATE_LIMIT)
            document = _decode_document(content)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError, RecursionError, ValueError) as exc:
            found.bad.append(candidate)
            found.problems.append(f"{candidate} cannot be used and is set aside: {_reason(exc)}")
            continue
        found.document = document
        found.saved_content = content
        if candidate == path:
            found.saved_sequence = document.sequence
        elif not found.bad:
            found.problems.append(f"{path} is missing: went on from {candidate}")
        return


def _decode_document(content: bytes) -> _Document:
    schema = _schemas.decode(content).schema
    if schema != SCHEMA:
        raise _UnusableError(f"it has schema {schema} and this version knows {SCHEMA}")
    document = _documents.decode(content)
    if not 0 <= document.sequence < 2**62 or not 0 <= document.last_seq < 2**62:
        raise _UnusableError("its numbers are out of range")
    for name, record in document.components.items():
        _check_record(record)
        if name != record.name:
            raise _UnusableError(f"{name!r} holds the record of {record.name!r}")
    if document.daemon is not None:
        _check_daemon(document.daemon)
    if not all(0 <= life <= _MAX_NUMBER for life in document.past_lives.values()):
        raise _UnusableError("its numbers are out of range")
    return document


def _read_changes(path: str, found: _Found) -> list[_Change]:
    """The changes in a file. A torn last line is as if it had never been."""
    try:
        content = read_regular(path, _CHANGES_LIMIT)
    except FileNotFoundError:
        return []
    except OSError as exc:
        found.bad.append(path)
        found.problems.append(f"{path} cannot be used and is set aside: {_reason(exc)}")
        return []
    changes: list[_Change] = []
    reason = ""
    lines = content.split(b"\n")[:-1]
    for line in lines:
        try:
            changes.append(_decode_change(line))
        except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
            reason = _reason(exc)
    if reason:
        count = len(lines) - len(changes)
        found.problems.append(f"{path}: {count} of {len(lines)} changes were left out: {reason}")
    return changes


def _decode_change(line: bytes) -> _Change:
    change = _changes.decode(line)
    if change.schema != SCHEMA or not 0 < change.sequence < 2**62:
        raise _UnusableError("written by another version")
    if change.put is not None:
        _check_record(change.put)
    if change.daemon is not None:
        _check_daemon(change.daemon)
    return change


def _apply(change: _Change, document: _Document) -> None:
    document.sequence = change.sequence
    if change.put is not None:
        _put(change.put, document)
    if change.forget is not None:
        _forget(change.forget, document)
    if change.daemon is not None:
        document.daemon = change.daemon


def _put(record: ComponentRecord, document: _Document) -> None:
    document.components[record.name] = record
    document.past_lives.pop(record.name, None)


def _forget(component: str, document: _Document) -> None:
    record = document.components.pop(component, None)
    if record is not None and record.life:
        document.past_lives[component] = record.life


def _check_record(record: ComponentRecord) -> None:
    """Refuse a record that would mislead: above all one that names a process nobody may signal.

    Raises:
        _UnusableError: with the reason.
    """
    pids = [record.shown.pid, record.identity.pid if record.identity else None]
    for pid in pids:
        if pid is not None and not 1 < pid <= _MAX_NUMBER:
            raise _UnusableError(f"{record.name} names pid {pid}")
    if record.phase not in Phase.__members__:
        raise _UnusableError(f"{record.name} is in no known phase")
    if record.failed_because is not None and record.failed_because not in FailedBecause.__members__:
        raise _UnusableError(f"{record.name} has failed for no known reason")
    if not all(0 <= number <= _MAX_NUMBER for number in (record.life, record.restarts, record.streak)):
        raise _UnusableError(f"{record.name} has counters out of range")
    instants = (record.spawned_boot, record.due_boot, record.delay, *record.counted_boot)
    if not all(abs(instant) < _MAX_SECONDS for instant in instants if instant is not None):
        raise _UnusableError(f"{record.name} has instants out of range")
    if record.stop_signal not in signal.Signals.__members__ or not 0 <= record.grace < _MAX_SECONDS:
        raise _UnusableError(f"{record.name} is to be stopped in no known way")


def _check_daemon(record: DaemonRecord) -> None:
    # 1 is fine: in a container the daemon may well have been the first process.
    if not 1 <= record.pid <= _MAX_NUMBER:
        raise _UnusableError(f"the daemon's pid is {record.pid}")


def _drop_own_pid(found: _Found) -> None:
    """Forget a life that has the very pid of this process: it is over, whatever else is true."""
    for name, record in found.document.components.items():
        if record.identity is not None and record.identity.pid == os.getpid():
            found.problems.append(f"the state says that {name} has the daemon's own pid: its life is taken as over")
            shown = msgspec.structs.replace(record.shown, pid=None)
            found.document.components[name] = msgspec.structs.replace(record, identity=None, shown=shown)


def _set_aside(path: str) -> None:
    """Rename a file that cannot be used, and keep only a few such."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = f"{path}.bad-{stamp}"
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = f"{path}.bad-{stamp}-{number}"
    with contextlib.suppress(OSError):
        os.rename(path, aside)
        folder, name = os.path.split(path)
        bad = sorted(entry for entry in os.listdir(folder) if entry.startswith(f"{name}.bad-"))
        for entry in bad[:-_BAD_KEPT]:
            remove(os.path.join(folder, entry))


def _to_json(value: msgspec.Struct) -> bytes:
    """Encode, whatever text a component brought in: what is no Unicode becomes question marks."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode("utf-8", "replace")


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return "nested too deeply" if isinstance(exc, RecursionError) else str(exc)


def _cannot_write(path: str, exc: OSError) -> str:
    return f"{path} cannot be written ({_reason(exc)}): the newest state is kept in memory until it can"
