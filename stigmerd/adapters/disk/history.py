"""The event history on disk: ``events.jsonl``, and the older ``.1`` to ``.3``.

One entry is one line in one write. Rotation renames whole files between two lines, so numbers
neither skip nor repeat across them. Reading goes from the newest file to the oldest: files only
ever move that way, so none is missed while a daemon rotates.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import deque
from types import TracebackType
from typing import Self

import msgspec

from stigmerd.adapters.disk.files import LineFile, is_at, lines_backwards, open_regular
from stigmerd.adapters.disk.home import Home
from stigmerd.core.event import Entry

ROTATE_AT = 8 * 1024 * 1024
KEPT = 3
WAITING_LIMIT = 10_000
"""Entries kept in memory while the disk is full."""

_READ = 1024 * 1024


class EventFiles:
    """The engine's ``EventStore``. ``floor`` is a number known from elsewhere to be used already.

    What the disk refuses waits in memory, in order; :meth:`flush` tries again. May be used from
    several threads.
    """

    def __init__(self, home: Home, *, floor: int = 0) -> None:
        self._path = _events_path(home)
        self._file = LineFile(self._path)
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._last_seq = max(floor, _find_last_seq(self._path))
        self._lost = 0
        self._refusal: str | None = None

    @property
    def last_seq(self) -> int:
        """The highest number used so far, 0 for an empty history."""
        return self._last_seq

    @property
    def problem(self) -> str | None:
        """One sentence about what is wrong with the history now, or None."""
        lost = f"{self._lost} events were lost while the disk was full" if self._lost else None
        return "; ".join(part for part in (self._refusal, lost) if part) or None

    def append(self, entry: Entry) -> None:
        """Put one entry into the file, in one write, before this returns. Never raises."""
        with self._lock:
            self._last_seq = max(self._last_seq, entry.seq)
            self._waiting.append(entry)
            if len(self._waiting) > WAITING_LIMIT:
                self._waiting.popleft()
                self._lost += 1
            self._write_waiting()

    def flush(self) -> None:
        """Write what is waiting, and take room for what comes; to be called once a second. Never raises."""
        with self._lock:
            if self._waiting:
                self._write_waiting()
            with contextlib.suppress(OSError):  # a full disk is said once it matters
                self._file.reserve()

    def read_since(self, seq: int) -> list[Entry]:
        """The kept entries with a higher number, oldest first."""
        with self._lock:
            waiting = [entry for entry in self._waiting if entry.seq > seq]
        written = _read_after(self._path, seq)
        highest = written[-1].seq if written else seq
        return written + [entry for entry in waiting if entry.seq > highest]

    def close(self) -> None:
        """Give back the descriptor."""
        self._file.close()

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                line = _to_line(self._waiting[0])
                if not self._file.append_within(ROTATE_AT, line):
                    self._rotate()
                    self._file.append(line)
                self._waiting.popleft()
        except OSError as exc:
            self._refusal = (
                f"{self._path} cannot be written ({exc.strerror or exc}): "
                f"{len(self._waiting)} events are kept in memory until it can"
            )
        else:
            self._refusal = None

    def _rotate(self) -> None:
        """Rename each file to the next number. What a crash left free is filled first."""
        self._file.close()
        free = next((n for n in range(1, KEPT) if not os.path.lexists(f"{self._path}.{n}")), KEPT)
        for number in range(free, 1, -1):
            os.rename(f"{self._path}.{number - 1}", f"{self._path}.{number}")
        os.rename(self._path, f"{self._path}.1")


class EventTail:
    """Follows the history in the files, for a client that has no daemon to ask.

    ``since`` is the number after which to begin. It neither misses nor repeats an entry when the
    files are rotated.
    """

    def __init__(self, home: Home, since: int = 0) -> None:
        self._path = _events_path(home)
        self._last = since
        self._fd: int | None = None
        self._offset = 0

    @classmethod
    def of_last(cls, home: Home, count: int | None) -> Self:
        """Begin with the last ``count`` entries; None: with all that are kept."""
        return cls(home, 0 if count is None else max(0, _find_last_seq(_events_path(home)) - count))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def poll(self) -> list[Entry]:
        """The entries that are new since the last call, oldest first."""
        if self._fd is None or not is_at(self._fd, self._path) or os.fstat(self._fd).st_size < self._offset:
            # Opened before reading: what comes after that is read at the next call, from its start.
            self._open()
            return self._take(_read_after(self._path, self._last))
        return self._take(self._read_new())

    def _open(self) -> None:
        self.close()
        self._offset = 0
        with contextlib.suppress(OSError):
            self._fd = open_regular(self._path, os.O_RDONLY)

    def _read_new(self) -> list[Entry]:
        """The entries in the whole lines from the offset on; what is no entry is passed over."""
        assert self._fd is not None
        entries: list[Entry] = []
        while block := os.pread(self._fd, _READ, self._offset):
            whole = block[: block.rfind(b"\n") + 1]
            if not whole and len(block) < _READ:
                break
            self._offset += len(whole) or len(block)
            found = (_parse(line) for line in whole.split(b"\n"))
            entries += [entry for entry in found if entry is not None]
        return entries

    def _take(self, entries: list[Entry]) -> list[Entry]:
        new = []
        for entry in entries:
            if entry.seq > self._last:
                new.append(entry)
                self._last = entry.seq
        return new


def read_events(home: Home, since: int = 0) -> list[Entry]:
    """The kept entries with a number above ``since``, oldest first. Changes nothing, never raises."""
    return _read_after(_events_path(home), since)


def _events_path(home: Home) -> str:
    return os.path.join(home.state, "events.jsonl")


def _newest_first(path: str) -> list[str]:
    return [path, *(f"{path}.{number}" for number in range(1, KEPT + 1))]


def _read_after(path: str, seq: int) -> list[Entry]:
    newest_first: list[Entry] = []
    seen: set[tuple[int, int]] = set()
    for name in _newest_first(path):
        with contextlib.suppress(OSError):
            fd = open_regular(name, os.O_RDONLY)
            try:
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) in seen:
                    continue  # renamed to here since it was read
                seen.add((status.st_dev, status.st_ino))
                if not _collect(fd, status.st_size, seq, newest_first):
                    break
            finally:
                os.close(fd)
    return newest_first[::-1]


def _collect(fd: int, size: int, seq: int, newest_first: list[Entry]) -> bool:
    """Add one file's entries above ``seq``. False if there can be no more of them in older files."""
    for line in lines_backwards(fd, size):
        entry = _parse(line)
        if entry is None or (newest_first and entry.seq >= newest_first[-1].seq):
            continue
        if entry.seq <= seq:
            return False
        newest_first.append(entry)
    return True


def _find_last_seq(path: str) -> int:
    """The number of the newest entry in the files, read from their ends."""
    for name in _newest_first(path):
        with contextlib.suppress(OSError):
            fd = open_regular(name, os.O_RDONLY)
            try:
                for line in lines_backwards(fd, os.fstat(fd).st_size):
                    entry = _parse(line)
                    if entry is not None:
                        return entry.seq
            finally:
                os.close(fd)
    return 0


class _Line(msgspec.Struct, kw_only=True):
    """The keys that every entry has."""

    seq: int
    at: str
    event: str
    component: str | None = None
    life: int | None = None
    reason: str | None = None
    message: str = ""


_lines = msgspec.json.Decoder(_Line)
_objects = msgspec.json.Decoder(dict[str, object])


def _parse(line: bytes) -> Entry | None:
    """The entry of one line, None if it is none."""
    try:
        known = _lines.decode(line)
        plain = _objects.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    if not 0 < known.seq < 2**62:
        return None
    details = {key: value for key, value in plain.items() if key not in _Line.__struct_fields__}
    return Entry(
        seq=known.seq,
        at=known.at,
        component=known.component,
        life=known.life,
        event=known.event,
        reason=known.reason,
        message=known.message,
        details=details,
    )


def _to_line(entry: Entry) -> bytes:
    """The entry as one line, whatever text a component brought in."""
    plain = entry.to_plain()
    try:
        return msgspec.json.encode(plain, enc_hook=str) + b"\n"
    except UnicodeEncodeError:
        return json.dumps(plain, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
