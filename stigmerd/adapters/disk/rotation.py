"""Rotation of one log by size, while a component writes to it.

The component holds the log itself open for appending, so the log cannot be swapped for a new one:
its head is copied to ``.1`` and cut off. Linux cuts whole blocks off a file under its writer
without losing a byte (FALLOC_FL_COLLAPSE_RANGE: ext4, xfs). Elsewhere everything is copied and the
log is truncated: what is written between the last copied byte and the truncation, some
microseconds, is lost.

How a cut survives a crash is told in :mod:`stigmerd.adapters.disk.ledger`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gzip
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from stigmerd.adapters.disk.files import fallocate, open_regular, remove, wide, write_all
from stigmerd.adapters.disk.ledger import (
    MARK_LENGTH,
    Former,
    Ledger,
    Step,
    after_cut,
    is_marked,
    packing_path,
    part_path,
    read_ledger,
    rotated_files,
    write_ledger,
)
from stigmerd.core.spec import LogPolicy

_CHUNK = 1024 * 1024
_FALLOC_FL_COLLAPSE_RANGE = 0x08
_NOTHING = ctypes.c_int64(0)
_CUTS_SPAN = 0.25
"""Seconds in which one rotation may begin another cut."""
_LAST_LOOKS = 16
"""How often, before a log is truncated, there may be something new in it."""
_PACK_AT_ONCE = 16 * 1024 * 1024
"""Bytes that one rotation compresses at most, so that it is there for the next one in time."""
_PACK_LEVEL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What to cut off the head of a log: ``dropped`` bytes for good, then ``kept`` ones to ``.1``."""

    dropped: int
    kept: int


def plan_collapse(size: int, block: int, policy: LogPolicy) -> Cut | None:
    """The next cut of a log of ``size`` bytes where whole blocks can be cut off; None if it is small enough.

    A cut never reaches the log's end. Of a log that has grown by more than is kept, the oldest
    part is dropped without being copied: it would be rotated away at once.
    """
    if size <= max(policy.max_size, block):
        return None
    available = (size - 1) // block * block
    if policy.keep == 0:
        return Cut(dropped=available, kept=0)
    unit = max(policy.max_size // block, 1) * block
    surplus = max(available // unit - policy.keep, 0)
    return Cut(dropped=surplus * unit, kept=min(available, unit))


def plan_truncation(size: int, policy: LogPolicy) -> Cut | None:
    """The cut of a log that can only be truncated: all of it, as much as may be kept."""
    if size <= max(policy.max_size, MARK_LENGTH):
        return None
    kept = min(size, policy.keep * policy.max_size)
    return Cut(dropped=size - kept, kept=kept)


class Rotation:
    """Rotates one log. One thread at a time; ``writing`` is held where our own lines would be lost."""

    def __init__(self, log: str, writing: threading.Lock, *, collapses: bool) -> None:
        self._log = log
        self._writing = writing
        self._collapses = collapses

    def settle(self) -> None:
        """Undo or complete what a daemon left half done when it died.

        Raises:
            OSError: it could not be.
        """
        with contextlib.suppress(FileNotFoundError), _opened(self._log) as fd:
            self._settled(fd)

    def rotate(self, policy: LogPolicy) -> int:
        """Bring the log within ``policy``. Returns how many bytes were dropped rather than kept.

        Raises:
            OSError: nothing is lost or doubled; the log may be larger than it should be.
        """
        dropped = 0
        with _opened(self._log) as fd:
            ledger = self._settled(fd)
            # Bounded: a writer this fast is met again very soon. After a slow cut it is better to drop more
            # at the next one than to keep what is old by now.
            began = time.monotonic()
            for _ in range(policy.keep + 1):
                cut = self._plan(fd, policy) if time.monotonic() - began < _CUTS_SPAN else None
                if cut is None:
                    break
                ledger, lost = self._cut(fd, ledger, cut, policy)
                dropped += lost
            if policy.compress and not dropped:
                self._pack(ledger)
        return dropped if policy.keep else 0

    def _plan(self, fd: int, policy: LogPolicy) -> Cut | None:
        size = os.fstat(fd).st_size
        if self._collapses:
            return plan_collapse(size, os.fstatvfs(fd).f_bsize, policy)
        return plan_truncation(size, policy)

    def _settled(self, fd: int) -> Ledger:
        """The ledger of the log that is open, with no step in it and nothing left lying around."""
        inode = os.fstat(fd).st_ino
        ledger = read_ledger(self._log) or Ledger(inode=inode)
        if ledger.inode != inode:
            ledger = Ledger(inode=inode, former=Former(inode=ledger.inode, base=ledger.base))
        if ledger.step is not None:
            ledger = self._end_step(fd, ledger, ledger.step)
        remove(part_path(self._log))
        remove(packing_path(self._log))
        for _, *twins in rotated_files(self._log).values():
            for twin in twins:
                remove(twin)  # packed, but its plain twin was not removed any more
        return self._without_lost(ledger)

    def _end_step(self, fd: int, ledger: Ledger, step: Step) -> Ledger:
        """Take a cut back that has not happened, or note one that has."""
        if is_marked(fd, step):
            return self._undo(fd, ledger, step)
        if os.path.lexists(part_path(self._log)):
            return self._note(msgspec.structs.replace(ledger, step=None))
        return self._note(after_cut(self._log, ledger))

    def _undo(self, fd: int, ledger: Ledger, step: Step) -> Ledger:
        """Take a marked cut back. The part goes last: without it and the mark, the cut has happened."""
        part = part_path(self._log)
        if not os.path.lexists(part):
            if step.keeps:
                os.rename(f"{self._log}.1", part)
            else:
                os.close(open_regular(part, os.O_WRONLY | os.O_CREAT))
        os.pwrite(fd, step.head, 0)
        ledger = self._note(msgspec.structs.replace(ledger, step=None))
        remove(part)
        return ledger

    def _note(self, ledger: Ledger) -> Ledger:
        write_ledger(self._log, ledger)
        return ledger

    def _cut(self, fd: int, ledger: Ledger, cut: Cut, policy: LogPolicy) -> tuple[Ledger, int]:
        """Make one cut. Returns the ledger after it, and how many bytes were dropped."""
        part = part_path(self._log)
        self._make_room(cut, policy)
        remove(part)
        out = open_regular(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _copy(fd, out, cut.dropped, cut.kept, self._log)
            step = Step(
                nonce=os.urandom(16),
                head=os.pread(fd, MARK_LENGTH, 0),
                dropped=cut.dropped,
                length=cut.dropped + cut.kept,
                truncates=not self._collapses,
            )
            ledger = self._note(msgspec.structs.replace(self._without_lost(ledger), step=step))
            os.pwrite(fd, step.mark, 0)
            try:
                self._shift(keeps=step.keeps)
                lost = self._take_off(fd, out, cut, policy)
            except OSError:
                self._undo(fd, ledger, step)
                raise
        except OSError:
            if ledger.step is None:
                remove(part)
            raise
        finally:
            os.close(out)
        return self._note(after_cut(self._log, ledger)), cut.dropped + lost

    def _without_lost(self, ledger: Ledger) -> Ledger:
        """The ledger without the inodes of files that are gone.

        It is written before another rotated file comes to be: that one may well get such an inode.
        """
        inodes = {os.lstat(name).st_ino for names in rotated_files(self._log).values() for name in names}
        found = (
            msgspec.structs.replace(
                segment,
                inode=segment.inode if segment.inode in inodes else 0,
                packed=segment.packed if segment.packed in inodes else 0,
            )
            for segment in ledger.segments
        )
        return msgspec.structs.replace(ledger, segments=tuple(s for s in found if s.inode or s.packed))

    def _take_off(self, fd: int, out: int, cut: Cut, policy: LogPolicy) -> int:
        """Cut the head off. Returns how many bytes were lost beyond the planned ones."""
        length = cut.dropped + cut.kept
        if self._collapses:
            collapse(fd, length)
            return 0
        # What was written since the copy, but never after a writer that is faster than that.
        end = length + policy.max_size if cut.kept and not cut.dropped else 0
        while length < end and (block := os.pread(fd, min(_CHUNK, end - length), length)):
            write_all(out, block)
            length += len(block)
        with self._writing:  # the loop may wait for this one, so it is short
            for _ in range(_LAST_LOOKS if length < end else 0):
                block = _end_or_more(fd, length)
                if not block:
                    return 0
                write_all(out, block)
                length += len(block)
            size = os.fstat(fd).st_size
            os.ftruncate(fd, 0)
        return max(size - length, 0)

    def _make_room(self, cut: Cut, policy: LogPolicy) -> None:
        """Remove the oldest files, before the copy is made rather than after: disk use is bounded."""
        files = rotated_files(self._log)
        most = policy.keep * policy.max_size + policy.max_size // 2
        total = cut.kept
        for number, names in files.items():
            total += sum(os.lstat(name).st_size for name in names)
            if number >= policy.keep or total > most:
                for name in names:
                    remove(name)

    def _shift(self, *, keeps: bool) -> None:
        """Make the part ``.1``, and every rotated file the next one up to the first free number."""
        part = part_path(self._log)
        if not keeps:
            os.unlink(part)
            return
        files = rotated_files(self._log)
        free = next(number for number in range(1, len(files) + 2) if number not in files)
        for number in range(free - 1, 0, -1):
            for name in files[number]:
                suffix = ".gz" if name.endswith(".gz") else ""
                os.rename(name, f"{self._log}.{number + 1}{suffix}")
        os.rename(part, f"{self._log}.1")

    def _pack(self, ledger: Ledger) -> None:
        """Compress the rotated files, oldest first. Who reads one finds it plain or packed at any instant."""
        done = 0
        for _, names in reversed(rotated_files(self._log).items()):
            if names[0].endswith(".gz") or done >= _PACK_AT_ONCE:
                continue
            done += os.lstat(names[0]).st_size
            ledger = self._pack_one(names[0], ledger)

    def _pack_one(self, name: str, ledger: Ledger) -> Ledger:
        packing = packing_path(self._log)
        source = open_regular(name, os.O_RDONLY)
        target = open_regular(packing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with open(source, "rb") as plain, open(target, "wb") as file:
            with gzip.GzipFile(os.path.basename(name), "wb", _PACK_LEVEL, file) as packed:
                shutil.copyfileobj(plain, packed, _CHUNK)
            old, new = os.fstat(source).st_ino, os.fstat(target).st_ino
        segments = tuple(
            msgspec.structs.replace(segment, packed=new) if segment.inode == old else segment
            for segment in ledger.segments
        )
        ledger = self._note(msgspec.structs.replace(ledger, segments=segments))
        os.rename(packing, f"{name}.gz")
        os.unlink(name)
        return self._note(self._without_lost(ledger))


@contextlib.contextmanager
def _opened(log: str) -> Iterator[int]:
    """The log, open for reading and for writing anywhere."""
    fd = open_regular(log, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(source: int, target: int, start: int, length: int, log: str) -> None:
    """Copy bytes of a log.

    Raises:
        OSError: the disk refused, or the log has become shorter.
    """
    end = start + length
    while start < end:
        block = os.pread(source, min(_CHUNK, end - start), start)
        if not block:
            raise OSError(errno.ESTALE, "was truncated by somebody while it was rotated", log)
        write_all(target, block)
        start += len(block)


def _end_or_more(fd: int, offset: int) -> bytes:
    """Truncate a log to nothing if nothing follows ``offset``, else tell what does.

    This is the window in which output is lost, so no other thread may run in it: PyDLL, unlike
    ``os``, keeps the interpreter's lock during the calls.
    """
    libc = ctypes.PyDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(64 * 1024)
    place = ctypes.c_int64(offset)
    read, truncate = wide(libc, "pread"), wide(libc, "ftruncate")
    found = read(fd, buffer, len(buffer), place)
    if found == 0 and truncate(fd, _NOTHING) == 0:
        return b""
    if found > 0:
        return buffer.raw[:found]
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def collapse(fd: int, length: int) -> None:
    """Cut ``length`` bytes, whole blocks, off the head of a file. Source: fallocate(2).

    Raises:
        OSError: the file is as it was; ENOTSUP where the system or its file system cannot.
    """
    fallocate(fd, _FALLOC_FL_COLLAPSE_RANGE, 0, length)


def can_collapse(folder: str) -> bool:
    """Whether files in this folder can be cut at their head, found out by doing it.

    Raises:
        OSError: it could not be found out, as on a full disk.
    """
    probe = os.path.join(folder, ".collapse-probe")
    remove(probe)
    fd = open_regular(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        block = os.fstatvfs(fd).f_bsize
        write_all(fd, bytes(2 * block))
        collapse(fd, block)
    except OSError as exc:
        if exc.errno in {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            return False
        raise
    finally:
        os.close(fd)
        remove(probe)
    return True
