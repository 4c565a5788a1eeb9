"""The ledger of a log: which bytes of a component's output are in which file.

A log is rotated by moving its head to ``.1`` and cutting it off, while the component goes on
writing and others go on reading. So that nobody loses his place, every byte has a number: its
position in all that the log ever held. The ledger, a small file beside the log, says which number
the log's first byte has now, and which ones the rotated files begin with.

Cutting changes the log and the ledger, which cannot be done at once. A *step* in the ledger
announces the cut; whether it has happened is seen on the files themselves, by a reader in that
instant and by the next daemon after a crash alike:

* before the step is announced, the head is copied to a hidden file, the *part*;
* after that, the first bytes of the log are overwritten with a *mark*, 16 of them random (the
  ledger keeps what was there); the part becomes ``.1``; the head, mark and all, is cut off.

So: mark or part there, the cut has not happened; neither there, it has. The contents need not be
compared, which could not tell in a log that repeats itself.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import msgspec

from stigmerd.adapters.disk.files import read_regular, replace_file

MARK_LENGTH = 32
_MARK = b"\0stigmerd\0cuts\0\0"
_LIMIT = 1024 * 1024


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One rotated file: the numbers ``start`` to ``start + length``.

    The file is found by inode, since its name moves on: ``inode`` is that of the plain file and
    ``packed`` that of its compressed twin, 0 where there is none.
    """

    start: int
    length: int
    inode: int
    packed: int = 0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A cut that is announced: ``dropped`` bytes go for good, the next ones up to ``length`` to ``.1``.

    ``head`` is what was where the mark is. With ``truncates`` everything that the log holds in
    the end goes to ``.1``, and ``length`` is only the least.
    """

    nonce: bytes
    head: bytes
    dropped: int
    length: int
    truncates: bool

    @property
    def mark(self) -> bytes:
        """What the log begins with until it is cut."""
        return _MARK + self.nonce

    @property
    def keeps(self) -> bool:
        """Whether anything goes to ``.1``."""
        return self.length > self.dropped


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """The log before, that somebody removed or renamed, for those who still read it."""

    inode: int
    base: int


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """``base`` is the number of the first byte of the log, which is ``inode``; newest segment first."""

    inode: int
    base: int = 0
    segments: tuple[Segment, ...] = ()
    step: Step | None = None
    former: Former | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How a log lies in its files in one instant.

    What was read between two equal sights was read where it was looked for. ``head`` stands
    where the mark hides it. ``copied``: ``.1`` is a copy of the head that is not cut off yet.
    """

    base: int = 0
    segments: tuple[Segment, ...] = ()
    head: bytes | None = None
    copied: bool = False


_ledgers = msgspec.json.Decoder(Ledger)


def ledger_path(log: str) -> str:
    """Where the ledger of a log is."""
    return _beside(log, "ledger")


def part_path(log: str) -> str:
    """Where the next ``.1`` of a log is copied to."""
    return _beside(log, "part")


def packing_path(log: str) -> str:
    """Where a rotated file of a log is compressed to."""
    return _beside(log, "packing")


def _beside(log: str, suffix: str) -> str:
    folder, name = os.path.split(log)
    return os.path.join(folder, f".{name}.{suffix}")


def read_ledger(log: str) -> Ledger | None:
    """The ledger of a log; None where there is none that makes sense, as before the first rotation."""
    try:
        return _ledgers.decode(read_regular(ledger_path(log), _LIMIT))
    except (OSError, msgspec.MsgspecError, RecursionError, ValueError):
        return None


def write_ledger(log: str, ledger: Ledger) -> None:
    """Replace the ledger.

    Raises:
        OSError: it is as it was.
    """
    replace_file(ledger_path(log), msgspec.json.encode(ledger), durable=False)


def is_marked(fd: int, step: Step) -> bool:
    """Whether the log that is open as ``fd`` begins with the step's mark."""
    return os.pread(fd, MARK_LENGTH, 0) == step.mark


def look(log: str, fd: int) -> Sight:
    """How the log at this path lies now, as seen from the file that was opened as ``fd``."""
    inode = os.fstat(fd).st_ino
    ledger = read_ledger(log)
    if ledger is None:
        return Sight()
    if ledger.inode != inode:
        former = ledger.former
        return Sight(base=former.base if former is not None and former.inode == inode else 0)
    step = ledger.step
    if step is None:
        return Sight(base=ledger.base, segments=ledger.segments)
    marked = is_marked(fd, step)
    parted = os.path.lexists(part_path(log))
    if not marked and not parted:
        ledger = after_cut(log, ledger)
        return Sight(base=ledger.base, segments=ledger.segments)
    return Sight(
        base=ledger.base,
        segments=ledger.segments,
        head=step.head if marked else None,
        copied=marked and not parted and step.keeps,
    )


def after_cut(log: str, ledger: Ledger) -> Ledger:
    """The ledger once the cut of its step has happened."""
    step = ledger.step
    assert step is not None
    if not step.keeps:
        return msgspec.structs.replace(ledger, base=ledger.base + step.length, step=None)
    try:
        status = os.lstat(f"{log}.1")
    except OSError:
        return msgspec.structs.replace(ledger, base=ledger.base + step.length, step=None)
    segment = Segment(start=ledger.base + step.dropped, length=status.st_size, inode=status.st_ino)
    return msgspec.structs.replace(
        ledger, base=segment.start + segment.length, segments=(segment, *ledger.segments), step=None
    )


def rotated_files(log: str) -> dict[int, list[str]]:
    """The rotated files of a log by number, lowest (newest) first; the plain one before its packed twin."""
    folder, name = os.path.split(log)
    pattern = re.compile(re.escape(name) + r"\.([1-9][0-9]{0,5})(?:\.gz)?")
    found: dict[int, list[str]] = {}
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return {}
    for entry in entries:
        match = pattern.fullmatch(entry)
        if match is not None:
            found.setdefault(int(match[1]), []).append(os.path.join(folder, entry))
    return dict(sorted(found.items()))
