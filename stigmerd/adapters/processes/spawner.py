"""The spawner: a small process beside the daemon from which lives are cloned straight into their leaf.

A process that moves into a cgroup waits, on a machine at rest, 10 to 15 ms for the kernel
(``synchronize_rcu`` behind the lock that keeps thread groups together); one that is cloned into it
does not. But the daemon has threads, so that no Python can run between a clone of it and the exec.
This process has one thread, so that it can; and what it imports is little, so that cloning it is
quick: of ``socket`` and ``signal`` the halves in C, whose other halves bring a megabyte of modules
with them. Source: clone(2), CLONE_INTO_CGROUP, Linux 5.7.

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
import resource
import struct
from io import BytesIO

from stigmerd.adapters.processes.prepare import (
    Refused,
    candidates,
    check_nofile,
    exec_refusal,
    find_owner,
    find_program,
)

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
"""Characters of a reason, of up to four bytes each."""


Order = tuple[
    tuple[str, ...],
    str,
    dict[str, str],
    str | int | None,
    str | int | None,
    int | None,
    int | None,
    int | None,
]
"""A process to be: argv, cwd, env, user, group, umask, nofile, soft_nofile of a
:class:`stigmerd.adapters.processes.spawn.Blueprint`. It comes with three descriptors: its output, its leaf, and a
pipe for reports, which ends when the program runs or the process is dead."""

Report = tuple[int, int, str]
"""What became of an order: (pid, 0, "") from the spawner; (pid, errno, reason) from a process that cannot
be. They may come in either order. With pid 0, the clone was refused."""


def to_message(order: Order) -> bytes:
    """An order as one message. Both ends are the same interpreter."""
    return marshal.dumps(order)


def report(pipe: int, pid: int, number: int = 0, reason: str = "") -> None:
    """Write one report."""
    os.write(pipe, marshal.dumps((pid, number, reason[:REASON_LIMIT])))


def read_reports(pipe: int) -> list[Report]:
    """What has been reported since; nothing more comes after nothing."""
    file = BytesIO(os.read(pipe, REPORT_LIMIT))
    end = len(file.getbuffer())
    reports = []
    while file.tell() < end:
        reports.append(marshal.load(file))
    return reports


def main() -> None:
    """Serve orders from standard input, a socket, until the daemon closes its end or dies."""
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
        order = marshal.loads(message)
        shortcut = _Shortcut.of(order)
        _direct_output(output)
        pid = library.clone_into(leaf)
        if pid == 0:
            _become(order, shortcut, library, reports)
        _direct_output(null)
        _report_clone(reports, pid)
        for descriptor in descriptors:
            os.close(descriptor)


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


def _set_limits(nofile: int | None, soft_nofile: int | None) -> None:
    """Set both limits of descriptors, or the soft one, or none."""
    if nofile is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
    elif soft_nofile is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_nofile, hard))


class _Shortcut:
    """An ordinary order, as far as it can be made ready before the clone: two calls are left to the child.

    It knows no reasons. Where a call fails, the long way is taken, which fails likewise and says why.
    """

    def __init__(self, cwd: bytes, programs: list[bytes], words: list[bytes], env: list[bytes]) -> None:
        self._cwd = cwd
        self._programs = programs
        self._argv = _strings([b"", *words])
        self._env = _strings(env)

    @classmethod
    def of(cls, order: Order) -> _Shortcut | None:
        """The order made ready; None where there is more to do, or where something cannot be."""
        argv, cwd, env, user, group, umask, nofile, soft_nofile = order
        is_ordinary = user is None and group is None and umask is None and nofile is None
        if not is_ordinary or "" in env or "=" in "".join(env):
            return None
        paths = [cwd, *candidates(argv[0], cwd, env)]
        settings = [f"{name}={value}" for name, value in env.items()]
        places, words, variables = _encode(paths), _encode(argv[1:]), _encode(settings)
        if places is None or words is None or variables is None:
            return None
        _set_limits(None, soft_nofile)  # inherited
        return cls(places[0], places[1:], words, variables)

    def take(self, library: _Library) -> None:
        """Become the program, or return."""
        if library.chdir(self._cwd) != 0:
            return
        for program in self._programs:
            self._argv[0] = program
            library.execve(program, self._argv, self._env)
            if ctypes.get_errno() not in NOT_HERE:
                return


def _encode(texts: list[str] | tuple[str, ...]) -> list[bytes] | None:
    """Each as the system knows it; None where one holds a NUL. All in one piece, as there may be a hundred."""
    encoded = os.fsencode("\0".join(texts)).split(b"\0") if texts else []
    return encoded if len(encoded) == len(texts) else None


def _strings(texts: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """What C calls ``char *const[]``, its NULL included."""
    return (ctypes.c_char_p * (len(texts) + 1))(*texts)


def _become(order: Order, shortcut: _Shortcut | None, library: _Library, reports: int) -> None:
    """Be the process of the order, or report why it cannot be."""
    try:
        library.setsid()
        if shortcut is not None:
            shortcut.take(library)
        _prepare_and_exec(order)
    except Refused as exc:
        report(reports, os.getpid(), exc.errno, str(exc))
    finally:
        os._exit(127)


def _prepare_and_exec(order: Order) -> None:
    argv, cwd, env, user, group, umask, nofile, soft_nofile = order
    owner = find_owner(user, group)
    check_nofile(nofile, owner)
    try:
        os.chdir(cwd)
    except OSError as exc:
        raise Refused(f"working directory {cwd}: {exc.strerror}", exc.errno or 0) from exc
    program = find_program(argv[0], cwd, env)
    try:
        _set_limits(nofile, soft_nofile)
        if umask is not None:
            os.umask(umask)
        if owner is not None:
            os.setgroups(owner.groups)
            os.setregid(owner.gid, owner.gid)
            os.setreuid(owner.uid, owner.uid)
    except (OSError, ValueError) as exc:
        raise Refused(f"preparing {program}: {exc}", getattr(exc, "errno", None) or errno.EINVAL) from exc
    try:
        os.execve(program, (program, *argv[1:]), env)
    except OSError as exc:
        raise exec_refusal(program, exc) from exc
    except ValueError as exc:
        raise Refused(f"{program}: {exc}", errno.EINVAL) from exc
