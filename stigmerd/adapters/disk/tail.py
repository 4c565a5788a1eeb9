"""Reading a log from behind, and following it, by polling: with or without a daemon.

A follower knows its place by number (see :mod:`stigmerd.adapters.disk.ledger`) and so neither misses
nor repeats a byte when the log's head is cut off under it, into ``.1`` and further. Everything is
looked at before and after it is read; what does not agree is read again.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections import deque
from types import TracebackType
from typing import Self

from stigmerd.adapters.disk.files import is_at, open_regular
from stigmerd.adapters.disk.ledger import MARK_LENGTH, Segment, Sight, look, rotated_files

_READ = 256 * 1024
_LINE_LIMIT = 64 * 1024
"""A line that is longer is handed out in pieces."""
_PRINT = 64
"""How many of the last bytes read are compared, to see that the log was truncated and has grown again."""
_TRIES = 200
_DAMAGE = (OSError, EOFError, zlib.error)
"""What reading a damaged compressed file raises."""


class _Packed(gzip.GzipFile):
    """A compressed file that closes what it reads from."""

    def __init__(self, fd: int) -> None:
        self._file = open(fd, "rb")  # noqa: SIM115  (closed with this object)
        super().__init__(fileobj=self._file)

    def close(self) -> None:
        """Give back the descriptor."""
        super().close()
        self._file.close()


_File = io.BufferedReader | _Packed


class LogTail:
    """The lines of a log from the last ``last`` ones on; 0: only new ones; None: all that are kept.

    :meth:`poll` as long as it returns lines, then again in 50 ms or less. The log need not be
    there yet. ``missed`` counts bytes that were rotated away before they were read.
    """

    def __init__(self, path: str, *, last: int | None = 0) -> None:
        self.missed = 0
        self._path = path
        self._kept: deque[_File] = deque()
        """Rotated files that are to be read first, oldest first."""
        self._fd: int | None = None
        self._at = 0
        """The number of the next byte of the log."""
        self._end = 0
        """The number of the first byte that was not there yet in the beginning."""
        self._print = b""
        self._lines = _Lines()
        self._former: _Former | None = None
        self._begin(last)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the descriptors."""
        while self._kept:
            self._kept.popleft().close()
        if self._former is not None:
            self._former.close()
            self._former = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was there in the beginning has been read: a log may grow faster than it is read."""
        return not self._kept and self._at >= self._end

    def poll(self) -> list[bytes]:
        """Some of the next lines, each with its newline; [] when there are none at present.

        A line of more than 64 KiB comes in pieces, of which only the last has a newline.
        """
        while self._kept:
            found = _read_kept(self._kept[0])
            if not found:
                self._kept.popleft().close()
            elif lines := self._lines.feed(found):
                return lines
        lines = self._former.poll() if self._former is not None else []
        return lines + self._poll_log()

    def flush(self) -> list[bytes]:
        """What has been read of a line without its end so far: for those who will not wait for it."""
        former = self._former.lines.flush() if self._former is not None else []
        return former + self._lines.flush()

    def _poll_log(self) -> list[bytes]:
        if self._fd is None and not self._open():
            return []
        lines = self._lines.feed(self._read())
        if not lines and self._follow_replacement():
            lines = self._lines.feed(self._read())
        return lines

    def _open(self) -> bool:
        with contextlib.suppress(OSError):
            self._fd = open_regular(self._path, os.O_RDONLY)
            return True
        return False

    def _follow_replacement(self) -> bool:
        """If another file has taken the log's place, go on with that one, from its start. True if so.

        The one before is read on too: a component that was started before still writes to it.
        """
        assert self._fd is not None
        if is_at(self._fd, self._path) or not os.path.lexists(self._path):
            return False
        old, offset = self._fd, self._at - look(self._path, self._fd).base
        if not self._open():
            return False
        if self._former is not None:
            self._former.close()
        self._former = _Former(old, max(offset, 0), self._lines)
        self._at, self._print, self._lines = 0, b"", _Lines()
        return True

    def _read(self) -> bytes:
        """The next bytes of the log, wherever they are now."""
        assert self._fd is not None
        for _ in range(_TRIES):
            sight = look(self._path, self._fd)
            if self._at < sight.base:
                at, found = self._read_rotated(sight)
            else:
                at, found = self._read_head(sight)
            if look(self._path, self._fd) != sight:
                continue
            if at != self._at:
                self.missed += max(at - self._at, 0)
                self._at, self._print = at, b""
            self._at += len(found)
            self._print = (self._print + found)[-_PRINT:]
            return found
        return b""

    def _read_head(self, sight: Sight) -> tuple[int, bytes]:
        """Read from the log itself. Returns where, and what."""
        assert self._fd is not None
        offset = self._at - sight.base
        known = min(len(self._print), offset)
        found = _read_at(self._fd, offset - known, known + _READ, sight)
        if len(found) < known or found[:known] != self._print[len(self._print) - known :]:
            # Truncated by somebody, so all that is in it now is new.
            return sight.base, _read_at(self._fd, 0, _READ, sight)
        return self._at, found[known:]

    def _read_rotated(self, sight: Sight) -> tuple[int, bytes]:
        """Read what was cut off the log before we came to it. Returns where, and what."""
        for segment in reversed(sight.segments):
            if self._at < segment.start + segment.length:
                at = max(self._at, segment.start)
                found = _read_segment(self._path, segment, at - segment.start)
                if found:
                    return at, found
        return sight.base, b""

    def _begin(self, last: int | None) -> None:
        """Find the place to begin at."""
        for _ in range(_TRIES):
            self.close()
            sight = Sight()
            if self._open():
                assert self._fd is not None
                sight = look(self._path, self._fd)
            self._choose_start(sight, last)
            if self._fd is None:
                if not os.path.lexists(self._path):
                    return
            elif is_at(self._fd, self._path) and look(self._path, self._fd) == sight:
                return

    def _choose_start(self, sight: Sight, last: int | None) -> None:
        """Set where to begin, opening as many rotated files as are needed, from the newest on."""
        size = os.fstat(self._fd).st_size if self._fd is not None else 0
        self._end = sight.base + size
        if last == 0:
            self._at = self._end
            return
        wanted = _Wanted(last)
        self._at = sight.base
        if self._fd is not None:
            with open(os.dup(self._fd), "rb") as log:
                start = wanted.search(log, size)
            if start is not None:
                self._at += start
                return
        for number, names in rotated_files(self._path).items():
            if sight.copied and number == 1:
                continue
            kept = _open_kept(names[0])
            if kept is None:
                continue
            self._kept.appendleft(kept)
            start = wanted.search(kept)
            kept.seek(start or 0)
            if start is not None:
                return


def tail_lines(path: str, count: int) -> list[bytes]:
    """The last ``count`` lines of a log, rotated files included, each with its newline if it has one."""
    lines: list[bytes] = []
    with LogTail(path, last=count) as tail:
        while len(lines) < count and (more := tail.poll()):
            lines += more
        return (lines + tail.flush())[:count]


def tail_texts(path: str, count: int) -> list[str]:
    """The same as text; what is no UTF-8 becomes ``\\xff``."""
    return [line.decode("utf-8", "backslashreplace") for line in tail_lines(path, count)]


class _Lines:
    """Turns bytes as they come into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, more: bytes) -> list[bytes]:
        """The lines that are complete with ``more``, and what is too long to wait for its end."""
        *whole, self._rest = (self._rest + more).split(b"\n")
        lines = [line + b"\n" for line in whole]
        if len(self._rest) >= _LINE_LIMIT:
            lines += self.flush()
        return lines

    def flush(self) -> list[bytes]:
        """What is left, as a line without its end."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class _Former:
    """A file that was the log, read on for as long as somebody may write to it."""

    def __init__(self, fd: int, offset: int, lines: _Lines) -> None:
        self.lines = lines
        self._fd = fd
        self._offset = offset

    def poll(self) -> list[bytes]:
        """The lines that are new in it."""
        self._offset = min(self._offset, os.fstat(self._fd).st_size)
        found = os.pread(self._fd, _READ, self._offset)
        self._offset += len(found)
        return self.lines.feed(found)

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self._fd)


class _Wanted:
    """Looks for the place where the last lines begin, through one file after the other, newest first."""

    def __init__(self, lines: int | None) -> None:
        self._newlines = lines
        """How many newlines have to be passed from the end on; None: all of them."""
        self._at_end = True

    def search(self, file: _File, size: int | None = None) -> int | None:
        """The offset in ``file``, or None if it is further back."""
        if self._newlines is None:
            return None
        try:
            return self._search(file, file.seek(0, os.SEEK_END) if size is None else size, self._newlines)
        except _DAMAGE:
            return None

    def _search(self, file: _File, size: int, wanted: int) -> int | None:
        if size == 0:
            return None
        if self._at_end:
            self._at_end = False
            file.seek(size - 1)
            wanted += file.read(1) == b"\n"
        if isinstance(file, _Packed):
            return self._search_forwards(file, wanted)
        return self._search_backwards(file, size, wanted)

    def _search_backwards(self, file: _File, end: int, wanted: int) -> int | None:
        while end > 0:
            start = max(0, end - _READ)
            file.seek(start)
            block = file.read(end - start)
            count = block.count(b"\n")
            if count >= wanted:
                offset = len(block)
                for _ in range(wanted):
                    offset = block.rfind(b"\n", 0, offset)
                return start + offset + 1
            wanted -= count
            end = start
        self._newlines = wanted
        return None

    def _search_forwards(self, file: _File, wanted: int) -> int | None:
        """The same where going back means to decompress all anew."""
        newest: deque[int] = deque(maxlen=wanted)
        offset = 0
        file.seek(0)
        for line in file:
            offset += len(line)
            if line.endswith(b"\n"):
                newest.append(offset)
        if len(newest) == wanted:
            return newest[0]
        self._newlines = wanted - len(newest)
        return None


def _open_kept(name: str) -> _File | None:
    """A rotated file, plain or packed; None if it is gone or not to be touched."""
    try:
        fd = open_regular(name, os.O_RDONLY)
    except OSError:
        return None
    return _Packed(fd) if name.endswith(".gz") else open(fd, "rb")


def _read_kept(file: _File) -> bytes:
    """Some of a rotated file. Of a damaged one, what comes before the damage."""
    try:
        return file.read(_READ)
    except _DAMAGE:
        return b""


def _read_at(fd: int, offset: int, length: int, sight: Sight) -> bytes:
    """Read from a log as it was before it was marked."""
    found = os.pread(fd, length, offset)
    if sight.head is None or offset >= MARK_LENGTH:
        return found
    head = sight.head[offset : offset + len(found)]
    return head + found[len(head) :]


def _read_segment(log: str, segment: Segment, offset: int) -> bytes:
    """Read from a rotated file, whatever it is called now; b"" if it is gone."""
    # Twice: it may have been renamed between the listing and the opening, but only once.
    for _ in range(2):
        for names in rotated_files(log).values():
            for name in names:
                file = _open_kept(name)
                if file is None:
                    continue
                with file:
                    inode = segment.packed if isinstance(file, _Packed) else segment.inode
                    if os.fstat(file.fileno()).st_ino == inode:
                        file.seek(offset)
                        return _read_kept(file)
    return b""
