"""Opening, appending to and replacing files without being fooled by what lies at their path.

Every file of the home is opened here: never through a symbolic link, never anything but a regular
file of our own with one name, never waiting for a FIFO's other end. What is in the files is the
business of others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700

_CHUNK = 64 * 1024
_FALLOC_FL_KEEP_SIZE = 0x01
_RESERVE = 128 * 1024
"""Bytes past its end that a file of lines has on the disk already, as far as the file system allows."""
_WRITING = os.O_WRONLY | os.O_RDWR


class RefusedError(OSError):
    """What lies at a path is not a file to be used: which path, why, and what to do."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}: remove it or move it away")
        self.path = path
        self.reason = reason


def open_regular(path: str, flags: int) -> int:
    """Open a regular file of ours, close-on-exec; with O_CREAT it is made with mode 0600.

    A file that is to be written is made 0600 where it was not. Root may read anybody's.

    Raises:
        RefusedError: a symbolic link, FIFO, folder, device, hard link, or another user's file.
        OSError: the system refused, FileNotFoundError included.
    """
    # O_NONBLOCK, because opening a FIFO waits for its other end.
    guarded = flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    while True:
        try:
            fd = os.open(path, guarded, PRIVATE_FILE)
        except OSError as exc:
            objection = _objection_to_path(path, flags)
            if objection is None:
                raise
            raise RefusedError(path, objection) from exc
        try:
            status = os.fstat(fd)
            if status.st_nlink > 0:
                _check_opened(fd, status, path, flags)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # removed while it was being opened: what is at the path now?


def _check_opened(fd: int, status: os.stat_result, path: str, flags: int) -> None:
    """Refuse an opened file that is not a plain one of ours, and make a plain one private."""
    objection = _objection(status, flags)
    if objection is not None:
        raise RefusedError(path, objection)
    if flags & _WRITING and stat.S_IMODE(status.st_mode) != PRIVATE_FILE:
        os.fchmod(fd, PRIVATE_FILE)
    # A child that inherits the descriptor expects one that blocks.
    os.set_blocking(fd, True)


def _objection_to_path(path: str, flags: int) -> str | None:
    try:
        return _objection(os.lstat(path), flags)
    except OSError:
        return None


def _objection(status: os.stat_result, flags: int) -> str | None:
    """Why a file must not be used, as the words that follow its path, or None."""
    mode = status.st_mode
    if not stat.S_ISREG(mode):
        return f"is {kind_of(mode)}, not a regular file"
    may_be_foreign = not flags & _WRITING and os.geteuid() == 0
    if status.st_uid != os.geteuid() and not may_be_foreign:
        return f"belongs to user {status.st_uid}, not to {os.geteuid()}"
    if status.st_nlink > 1:
        return "has another name too (a hard link)"
    return None


def kind_of(mode: int) -> str:
    """What a file's mode says it is, with its article."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_regular(path: str, limit: int) -> bytes:
    """The whole file.

    Raises:
        OSError: it is larger than ``limit`` bytes, or :func:`open_regular` says why not.
    """
    fd = open_regular(path, os.O_RDONLY)
    try:
        if os.fstat(fd).st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes", path)
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(fd)


def replace_file(path: str, content: bytes, *, durable: bool) -> None:
    """Put ``content`` at ``path``: a reader sees the old file or the new one, never half.

    ``durable`` waits until a power loss cannot undo it. One writer at a time.

    Raises:
        OSError: the old file is as it was.
    """
    draft = f"{path}.tmp"
    remove(draft)
    fd = open_regular(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_all(fd, content)
        if durable:
            os.fsync(fd)
        os.rename(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(draft)
        raise
    finally:
        os.close(fd)
    if durable:
        sync_folder(os.path.dirname(path))


def sync_folder(path: str) -> None:
    """Make the names in a folder survive a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Remove a file; one that is not there is removed already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def write_all(fd: int, content: bytes) -> None:
    """Write all of it, in as many writes as the system wants."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Change what blocks a file has. Source: fallocate(2).

    Raises:
        OSError: the file is as it was; ENOTSUP where the system or its file system cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "fallocate"):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    call = wide(libc, "fallocate")
    while call(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def wide(libc: ctypes.CDLL, name: str) -> Callable[..., int]:
    """A function of the C library whose offsets have 64 bits: on some machines only its twin's have."""
    found: Callable[..., int] = getattr(libc, f"{name}64", None) or getattr(libc, name)
    return found


def is_at(fd: int, path: str) -> bool:
    """Whether ``path`` names the very file that is open as ``fd``."""
    return _names(path, os.fstat(fd))


def _names(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.lstat(path))
    except OSError:
        return False


def lines_backwards(fd: int, end: int) -> Iterator[bytes]:
    """The whole lines before offset ``end``, newest first, without their newline.

    What follows the last newline is no whole line and is left out.
    """
    rest = b""
    seen_newline = False
    while end > 0:
        start = max(0, end - _CHUNK)
        first, *others = (os.pread(fd, end - start, start) + rest).split(b"\n")
        if others and not seen_newline:
            others.pop()
            seen_newline = True
        yield from reversed(others)
        rest, end = first, start
    if seen_newline:
        yield rest


class LineFile:
    """A file that only grows, by whole lines, each in one write. One thread at a time.

    A line is in the file whole or not at all: what a full disk, or the death of an earlier
    daemon, left of one is cut off. A file that somebody removed or renamed is made again.

    Room for some hundred lines is taken from the disk ahead of them, with :meth:`reserve`: what
    happens while others fill the disk is written down all the same.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        """Bytes of whole lines."""
        self._fd: int | None = None
        self._reserved = 0
        """Up to where the file has its blocks, as far as we know."""

    def append(self, lines: bytes) -> None:
        """Write whole lines, all of them or none.

        Raises:
            OSError: nothing was written.
        """
        self._write(self._usable(), lines)

    def append_within(self, limit: int, lines: bytes) -> bool:
        """Write whole lines, unless a file that holds some becomes larger than ``limit`` by that: then False.

        Raises:
            OSError: nothing was written.
        """
        fd = self._usable()
        if self.size and self.size + len(lines) > limit:
            return False
        self._write(fd, lines)
        return True

    def _write(self, fd: int, lines: bytes) -> None:
        written = os.write(fd, lines)
        if written != len(lines):
            os.ftruncate(fd, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        self.size += written

    def close(self) -> None:
        """Give back the descriptor; the next append opens the file anew."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._reserved = 0

    def rename(self, path: str) -> None:
        """Give the file another name, in the place of what has it.

        Raises:
            OSError: it is as it was.
        """
        os.rename(self.path, path)
        self.path = path

    @property
    def is_reserved(self) -> bool:
        """Whether there is room for the next lines for certain, or as certain as the file system makes it."""
        return self._reserved - self.size > _RESERVE // 2

    def reserve(self) -> None:
        """Take room for the lines to come, unless enough of it is left.

        Raises:
            OSError: there is none, or the file cannot be used. Where the file system cannot do this, nothing
                happens.
        """
        fd = self._usable()
        if self.is_reserved:
            return
        try:
            fallocate(fd, _FALLOC_FL_KEEP_SIZE, self.size, _RESERVE)
        except OSError as exc:
            if exc.errno not in {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
        self._reserved = self.size + _RESERVE

    def _usable(self) -> int:
        """The open file, whose size is known. Two system calls, as this is on the way from an exit to a spawn."""
        status = os.fstat(self._fd) if self._fd is not None else None
        if self._fd is None or status is None or not _names(self.path, status):
            self.close()
            self._fd = self._open()
            self.size = _cut_torn_line(self._fd)
        elif status.st_size != self.size:
            self.size = _cut_torn_line(self._fd)
        return self._fd

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            return open_regular(self.path, flags)
        except FileNotFoundError:
            make_private_folder(os.path.dirname(self.path))
            return open_regular(self.path, flags)


def make_private_folder(path: str) -> None:
    """Make a folder, and what is missing above it, for nobody but us."""
    above = os.path.dirname(path)
    if not os.path.lexists(above):
        make_private_folder(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, PRIVATE_FOLDER)


def _cut_torn_line(fd: int) -> int:
    """Cut off what follows the last newline. Returns the size that is left."""
    end = size = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - _CHUNK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(fd, end)
    return end
