"""A file system that can be made to hang: a small FUSE server as a program of its own.

It shows, read-only, copies of the files in a folder. While it is held nobody gets an answer; after that
all do. Requests are taken meanwhile, so that who waits for one is in uninterruptible sleep: not even
SIGKILL reaches it. Source: linux/fuse.h, fs/fuse/dev.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="Linux only, and only where root may mount FUSE"
)

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, BATCH_FORGET = 25, 26, 27, 28, 29, 34, 36, 42

HEADER = struct.Struct("=IIQQIIII")
UNANSWERED = {FORGET, INTERRUPT, BATCH_FORGET}
MS_BIND, MNT_DETACH = 4096, 2
BUFFER = 1024 * 1024
ROOT = 1


class SlowFolder:
    """The mounted file system, as its user sees it."""

    def __init__(self, path: Path, server: subprocess.Popen[bytes]) -> None:
        self.path = path
        self._server = server

    def hold(self) -> None:
        """Answer nobody from now on."""
        self._tell(signal.SIGUSR1)

    def let_go(self) -> None:
        """Answer everybody again, those who wait first."""
        self._tell(signal.SIGUSR2)

    def _tell(self, number: int) -> None:
        assert self._server.stdout is not None
        self._server.send_signal(number)
        self._server.stdout.read(1)


@contextmanager
def slow_folder(at: Path, content: Path) -> Iterator[SlowFolder]:
    """The files of ``content`` at ``at``, until the end: then whoever still waits gets an error."""
    at.mkdir(exist_ok=True)
    command = [sys.executable, __file__, str(at), str(content)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.read(1) == b"m"
            yield SlowFolder(at, server)
        finally:
            server.kill()  # closes the connection: all its requests fail
            server.wait()
            ctypes.CDLL(None).umount2(os.fsencode(at), MNT_DETACH)


@contextmanager
def mounted(source: Path, at: Path) -> Iterator[None]:
    """One file of a folder at another place as well, until the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(at), None, MS_BIND, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(at), MNT_DETACH)


class Server:
    """Answers the kernel."""

    def __init__(self, content: str) -> None:
        self._files = {
            os.fsencode(name): (number, Path(content, name).read_bytes(), os.stat(Path(content, name)).st_mode)
            for number, name in enumerate(sorted(os.listdir(content)), start=ROOT + 1)
        }
        self._nodes = {number: (data, mode) for number, data, mode in self._files.values()}
        self._nodes[ROOT] = (b"", stat.S_IFDIR | 0o755)
        self._does: dict[int, Callable[[int, bytes], bytes]] = {
            INIT: lambda _, body: struct.pack("=III", 7, 31, 0) + struct.pack("=IHHII32x", 0, 16, 12, 65536, 1),
            LOOKUP: self._look_up,
            GETATTR: lambda node, _: struct.pack("=QII", 0, 0, 0) + self._attributes(node),
            OPEN: lambda *_: bytes(16),
            OPENDIR: lambda *_: bytes(16),
            READ: self._read,
            STATFS: lambda *_: bytes(80),
            **dict.fromkeys((READDIR, RELEASE, RELEASEDIR, FLUSH, ACCESS), lambda *_: b""),
        }

    def answer(self, request: bytes) -> bytes:
        """The answer to one request, b"" where none is wanted."""
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        if opcode in UNANSWERED:
            return b""
        number, body = -errno.ENOSYS, b""
        if opcode in self._does:
            try:
                number, body = 0, self._does[opcode](node, request[HEADER.size :])
            except KeyError:
                number = -errno.ENOENT
        return struct.pack("=IiQ", 16 + len(body), number, unique) + body

    def _look_up(self, _: int, body: bytes) -> bytes:
        node = self._files[body.rstrip(b"\0")][0]
        return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        data, mode = self._nodes[node]
        owner = (os.geteuid(), os.getegid())
        return struct.pack("=QQQQQQIIIIIIIIII", node, len(data), 0, 0, 0, 0, 0, 0, 0, mode, 1, *owner, 0, 4096, 0)

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        return self._nodes[node][0][offset : offset + size]


def main(at: str, content: str) -> None:
    """Mount, say so, and serve until killed."""
    server = Server(content)  # before the mount, which may be where the content is
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other"
    if ctypes.CDLL(None, use_errno=True).mount(b"slow", os.fsencode(at), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    wake_up, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    held, waiting = False, list[bytes]()
    os.write(device, server.answer(os.read(device, BUFFER)))  # INIT: until it is answered nobody can even ask
    os.write(1, b"m")
    while True:
        ready, _, _ = select.select([device, wake_up], [], [])
        if wake_up in ready:
            held = os.read(wake_up, 1)[0] == signal.SIGUSR1
            os.write(1, b"h")
        if device in ready:
            waiting.append(os.read(device, BUFFER))
        while waiting and not held:
            if answer := server.answer(waiting.pop(0)):
                try:
                    os.write(device, answer)
                except OSError as exc:
                    if exc.errno != errno.ENOENT:  # who asked was interrupted
                        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
