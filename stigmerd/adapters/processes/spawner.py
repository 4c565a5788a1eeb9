"""The spawner: a small process beside the daemon from which lives are cloned straight into their leaf.

A process that moves into a cgroup waits, on a machine at rest, 10 to 15 ms for the kernel
(``synchronize_rcu`` behind the lock that keeps thread groups together); one that is cloned into it
does not. But the daemon has threads, so that no Python can run between a clone of it and the exec.
This process has one thread, so that it can; and what it imports is little, so that cloning it is
quick: of ``socket`` and ``signal`` the halves in C, whose other halves bring a megabyte of modules
with them. Limits are inherited: it has those that its children are to have. Source: clone(2),
CLONE_INTO_CGROUP, Linux 5.7.

It holds nothing of the daemon but one socket, ends with it, and knows neither lives nor components.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import ctypes
import errno
import gc
import marshal
import os
import struct
from io import BytesIO

from stigmerd import __version__

MESSAGE_LIMIT = 96 * 1024
"""Bytes of one order. A socket takes twice that from anybody; what is larger is spawned elsewhere."""

DESCRIPTORS = struct.Struct("3i")
"""Output, leaf, and pipe for reports."""

ANCILLARY_SIZE = _socket.CMSG_LEN(DESCRIPTORS.size)

SYS_CLONE3 = 435
"""The same number on all machines. Source: linux/arch/*/syscall.tbl."""

CLONE_PARENT = 0x8000
"""The child is the daemon's, who can wait for it, and not the spawner's."""
CLONE_INTO_CGROUP = 0x200000000

NOT_HERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES})
"""After these, the program is looked for in the next folder of PATH. Source: execvp(3)."""

CLONE_ARGS_LENGTH = 11
"""Numbers in struct clone_args with the cgroup, which is the last one. Source: linux/sched.h."""


REPORT_LIMIT = 4096
"""Bytes of all reports on one order: as much as a pipe takes in one piece. Source: pipe(7)."""

REASON_LIMIT = 900
"""Characters of a reason, of up to four bytes each. Of a longer one the system's words are left: a secret in it could
not be found any more once it was cut."""


Order = tuple[
    tuple[str, ...],
    str,
    tuple[str, ...],
    bytes,
    str | int | None,
    str | int | None,
    int | None,
    int | None,
]
"""A process to be: argv, cwd, programs, settings, user, group, umask, nofile. ``programs`` are the
paths where ``argv[0]`` may be; ``settings`` is the environment as exec takes it, ``NAME=value`` after ``NAME=value``
with a NUL between; the others are those of a :class:`stigmerd.adapters.processes.spawn.Blueprint`. It comes with three
descriptors: its output, its leaf, and a pipe for reports, which ends when the program runs or the process is dead."""

Report = tuple[int, int, str]
"""What became of an order: (pid, 0, "") from the spawner; (pid, errno, reason) from a process that cannot
be. They may come in either order. With pid 0, the clone was refused."""


def to_message(order: Order) -> bytes:
    """An order as one message. Both ends are the same interpreter."""
    return marshal.dumps(order)


def report(pipe: int, pid: int, number: int = 0, reason: str = "") -> None:
    """Write one report."""
    told = reason if len(reason) <= REASON_LIMIT else os.strerror(number)
    os.write(pipe, marshal.dumps((pid, number, told)))


def read_reports(pipe: int) -> list[Report]:
    """What has been reported since; nothing more comes after nothing."""
    file = BytesIO(os.read(pipe, REPORT_LIMIT))
    end = len(file.getbuffer())
    reports = []
    while file.tell() < end:
        reports.append(marshal.load(file))
    return reports


def main(version: str) -> None:
    """Serve orders from standard input, a socket, until the daemon closes its end or dies.

    ``version`` is the daemon's. During an upgrade this may be the next one already, which refuses all.
    """
    for inherited in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGINT):
        _signal.signal(inherited, _signal.SIG_DFL)  # Python's own settings, which a child must not inherit
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    orders = _socket.socket(fileno=os.dup(0))
    os.dup2(null, 0)
    library = _Library()
    gc.disable()  # no collection copies pages, in the child or for it
    gc.freeze()
    while True:
        message, descriptors = _receive(orders)
        if not message:
            return
        output, leaf, reports = descriptors
        if version != __version__:
            report(reports, 0, errno.ENOSYS, "the helper is of another version")
            _close(descriptors)
            continue
        order = marshal.loads(message)
        shortcut = _Shortcut.of(order)
        _direct_output(output)
        pid = library.clone_into(leaf)
        if pid == 0:
            _become(order, shortcut, library, reports)
        _direct_output(null)
        _report_clone(reports, pid)
        _close(descriptors)
        _read_again(message)


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _read_again(message: bytes) -> None:
    """Parse an order once more. After a clone every page is copy-on-write, and the next order would pay for some
    fifty faults; now nobody waits for them."""
    _Shortcut.of(marshal.loads(message))


def _direct_output(descriptor: int) -> None:
    """Let a child inherit its output. Whatever is done before the clone need not be done by the child, to
    whom every page that it touches first costs some microseconds."""
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _report_clone(pipe: int, pid: int) -> None:
    if pid > 0:
        report(pipe, pid)
    else:
        number = ctypes.get_errno()
        report(pipe, 0, number, os.strerror(number))


def _receive(orders: _socket.socket) -> tuple[bytes, tuple[int, ...]]:
    """The next order and its descriptors, closed by an exec, which ``socket.recv_fds`` does not see to."""
    message, ancillary, _, _ = orders.recvmsg(MESSAGE_LIMIT, ANCILLARY_SIZE, _socket.MSG_CMSG_CLOEXEC)
    return message, DESCRIPTORS.unpack(ancillary[0][2]) if ancillary else ()


class _Library:
    """Calls of the C library, made without letting go of the interpreter's lock: a child would have to
    take it again."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(None, use_errno=True)
        self.setsid = library.setsid
        self.chdir = library.chdir
        self.execve = library.execve
        self._syscall = library.syscall
        self._arguments = (ctypes.c_uint64 * CLONE_ARGS_LENGTH)()
        # No exit signal: with CLONE_PARENT it is the spawner's own, SIGCHLD.
        self._arguments[0] = CLONE_PARENT | CLONE_INTO_CGROUP
        self._size = ctypes.c_size_t(ctypes.sizeof(self._arguments))

    def clone_into(self, leaf: int) -> int:
        """Return twice: 0 in the child, its pid here, or -1 with errno. The C library has no clone3."""
        self._arguments[CLONE_ARGS_LENGTH - 1] = leaf
        return int(self._syscall(SYS_CLONE3, self._arguments, self._size))


class _Shortcut:
    """An ordinary order, as far as it can be made ready before the clone: two calls are left to the child.

    It knows no reasons. Where a call fails, the long way is taken, which fails likewise and says why.
    """

    def __init__(self, cwd: bytes, programs: list[bytes], words: list[bytes], env: list[bytes]) -> None:
        self._cwd = cwd
        self._programs = programs
        self._argv = _strings([programs[0], *words])
        self._env = _strings(env)

    @classmethod
    def of(cls, order: Order) -> _Shortcut | None:
        """The order made ready; None where there is more to do, or where something cannot be."""
        argv, cwd, programs, settings, user, group, umask, nofile = order
        is_ordinary = user is None and group is None and umask is None and nofile is None
        texts = [cwd, *programs, *argv[1:]]
        encoded = os.fsencode("\0".join(texts)).split(b"\0")  # in one piece, as there may be a hundred
        if not is_ordinary or len(encoded) != len(texts):
            return None
        first_word = 1 + len(programs)
        return cls(encoded[0], encoded[1:first_word], encoded[first_word:], settings.split(b"\0"))

    def take(self, library: _Library) -> None:
        """Become the program, or return."""
        if library.chdir(self._cwd) != 0:
            return
        for program in self._programs:
            if program is not self._programs[0]:
                self._argv[0] = program
            library.execve(program, self._argv, self._env)
            if ctypes.get_errno() not in NOT_HERE:
                return


def _strings(texts: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """What C calls ``char *const[]``, its NULL included."""
    return (ctypes.c_char_p * (len(texts) + 1))(*texts)


def _become(order: Order, shortcut: _Shortcut | None, library: _Library, reports: int) -> None:
    """Be the process of the order, or report why it cannot be."""
    try:
        library.setsid()
        if shortcut is not None:
            shortcut.take(library)
        _take_the_long_way(order, reports)
    finally:
        os._exit(127)


def _take_the_long_way(order: Order, reports: int) -> None:
    """Become the program, or report why not. What that takes is imported only here: most orders never need it."""
    argv, cwd, _, settings, user, group, umask, nofile = order
    try:
        from stigmerd.adapters.processes import prepare

        env = dict(setting.split("=", 1) for setting in os.fsdecode(settings).split("\0"))
        prepare.become(argv, cwd, env, user=user, group=group, umask=umask, nofile=nofile)
    except Exception as exc:  # whatever it is: an end without a word would be taken for the program's own
        report(reports, os.getpid(), getattr(exc, "errno", None) or errno.EINVAL, str(exc) or repr(exc))
