"""What the system tells about processes: that they exist, whom they belong to, how they ended.

It decides nothing about lives; identity does. Nothing here uses Trio, and every function may block
for as long as procfs does, which can be long for a process that hangs in the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from stigmerd.core.exit_status import ExitStatus

HOME_MARK = "STIGMER_HOME"
COMPONENT_MARK = "STIGMER_COMPONENT"
LIFE_MARK = "STIGMER_LIFE"
PROBE_MARK = "STIGMER_PROBE"
"""The command of an exec probe or a hook carries this besides the marks of its life."""

HAS_PROCFS = sys.platform == "linux"

READ_SIZE = 65536
"""Bytes of procfs read at once: nearly every environment needs one read."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Refusals to look that say nothing about what was looked for: who takes them for an absence overlooks
somebody alive."""

PIDFD_GET_INFO = 0xC040FF0B
"""_IOWR(0xFF, 11, struct pidfd_info) in its first form, of 64 bytes. Source: linux/pidfd.h."""
PIDFD_INFO_EXIT = 1 << 3

PF_KTHREAD = 0x00200000
"""Of the flags in field 9 of ``/proc/PID/stat``. Source: linux/sched.h."""

LOOK_PASSES = 30
EXEC_PAUSE = 0.001
EXEC_LOOKS = 50
"""How often, and after how many seconds each, a process is looked at again that was met half-way through
an exec, when it has no environment: on a busy machine it may stay there for a while."""

FREEZE_SPAN = 1.0
"""Seconds in which members are stopped on sight, before all of them are killed."""
NEWEST = 8
"""Processes that are looked at before looking again for newer ones."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What ``/proc/PID/stat`` says. ``exit_word`` is a wait status, and of a zombie only."""

    pid: int
    state: str
    ppid: int
    session: int
    is_kernel: bool
    threads: int
    start_ticks: int
    exit_word: int

    @property
    def is_alive(self) -> bool:
        """Whether a thread of it runs: a zombie that has more than one lost its main thread only."""
        return self.state not in "ZX" or self.threads > 1


@dataclass(frozen=True, slots=True)
class Marks:
    """What the environment of a process says about whom it belongs to."""

    home: str
    component: str
    nonce: str
    probe: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One process at the time of a look. ``marks`` is None where it has none, or hides them."""

    stat: Stat
    marks: Marks | None

    @property
    def pid(self) -> int:
        """Its number, which is its own for as long as it is not reaped."""
        return self.stat.pid


# Signals.


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; the unnamed ones between SIGRTMIN and SIGRTMAX are ``SIGRTMIN+n``."""
    with suppress(ValueError):
        return signal.Signals(number).name
    lowest = getattr(signal, "SIGRTMIN", None)
    return f"SIGRTMIN+{number - lowest}" if lowest and number > lowest else f"signal {number}"


def signal_number(name: str) -> int:
    """The number of a signal of this platform.

    Raises:
        ValueError: this platform has no such signal.
    """
    base, _, offset = name.partition("+")
    try:
        return signal.Signals[base] + int(offset or 0)
    except KeyError:
        raise ValueError(f"{name} is no signal of this platform") from None


# One process.


def start_ticks(pid: int) -> int | None:
    """When a process began, in ticks since the boot (elsewhere: microseconds); None where that cannot be told."""
    with suppress(OSError):
        stat = read_stat(pid)
        return stat.start_ticks if stat is not None else None
    return None


def read_stat(pid: int) -> Stat | None:
    """What the system says about a process, None where there is none.

    Raises:
        OSError: one of :data:`SHORTAGES` keeps us from looking.
    """
    if not HAS_PROCFS:
        return _portable_stat(pid)
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError as exc:
        if exc.errno in SHORTAGES:
            raise
        return None
    # The name in parentheses may hold spaces and parentheses itself; nothing after it does.
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 50:
        return None
    return Stat(
        pid=pid,
        state=fields[0].decode(),
        ppid=int(fields[1]),
        session=int(fields[3]),
        is_kernel=bool(int(fields[6]) & PF_KTHREAD),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        exit_word=int(fields[49]),
    )


def read_marks(pid: int) -> Marks | None:
    """What the environment of a process says, None where it has no marks or is not for us to read.

    Raises:
        OSError: one of :data:`SHORTAGES` keeps us from looking.
    """
    if not HAS_PROCFS:
        return _marks_of(_portable_environment(pid))
    try:
        block = _read_environ(pid) or _read_late_environ(pid)
    except PermissionError:
        block = _read_headless_environ(pid)
    except OSError as exc:
        if exc.errno in SHORTAGES:
            raise
        return None
    if b"STIGMER_LIFE=" not in block:
        return None
    pairs = (entry.partition(b"=") for entry in block.split(b"\0") if entry.startswith(b"STIGMER_"))
    return _marks_of({os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs})


def cgroup_of(pid: int) -> str | None:
    """The place of a process in the cgroup v2 tree, such as ``/user.slice``; None where there is none."""
    with suppress(OSError):
        for line in _read(f"/proc/{pid}/cgroup").splitlines():
            if line.startswith(b"0::"):
                return os.fsdecode(line[3:])
    return None


def owner_of(pid: int) -> int | None:
    """The user whose process it is, None where there is none or the platform does not say it cheaply."""
    try:
        return os.stat(f"/proc/{pid}").st_uid if HAS_PROCFS else None
    except OSError:
        return None


def _marks_of(environment: Mapping[str, str]) -> Marks | None:
    home, component = environment.get(HOME_MARK), environment.get(COMPONENT_MARK)
    nonce = environment.get(LIFE_MARK)
    if not home or not component or not nonce:
        return None
    return Marks(home, component, nonce, environment.get(PROBE_MARK))


def _read_environ(pid: int) -> bytes:
    try:
        return _read(f"/proc/{pid}/environ")
    except ProcessLookupError:  # it has given up its memory, to newer kernels
        return b""


def _read_late_environ(pid: int) -> bytes:
    """The environment of a process that seems to have none: in the midst of an exec, or headless."""
    stat = read_stat(pid)
    if stat is None or stat.is_kernel or not stat.is_alive:
        return b""
    return _read_headless_environ(pid) if stat.state == "Z" else _read_environ_after_exec(pid)


def _read_headless_environ(pid: int) -> bytes:
    """The environment of a process whose main thread has exited, b"" of any other.

    What the system shows of the main thread is root's then; of the others it is still its user's.
    """
    stat = read_stat(pid)
    if stat is None or stat.state != "Z" or not stat.is_alive:
        return b""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            if int(thread) != pid:
                with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    return _read(f"/proc/{pid}/task/{thread}/environ")
    return b""


def _read_environ_after_exec(pid: int) -> bytes:
    for _ in range(EXEC_LOOKS):
        # Asked before the read: what is read after an exec is what there is.
        is_in_exec = _is_in_exec(pid)
        block = _read_environ(pid)
        if block or not is_in_exec:
            return block
        time.sleep(EXEC_PAUSE)
    return b""


def _is_in_exec(pid: int) -> bool:
    """Whether a process has a memory but no place for its environment in it yet: env_end, field 51 of
    ``/proc/PID/stat``, is 0. Source: proc_pid_stat(5)."""
    with suppress(OSError):
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        return len(fields) > 48 and fields[48] == b"0"
    return False


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = part = os.read(fd, READ_SIZE)
        while len(part) == READ_SIZE:
            part = os.read(fd, READ_SIZE)
            block += part
        return block
    finally:
        os.close(fd)


def _portable_stat(pid: int) -> Stat | None:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            state = "Z" if process.status() == psutil.STATUS_ZOMBIE else "R"
            began = int(process.create_time() * 1_000_000)
            return Stat(pid, state, process.ppid(), os.getsid(pid), False, 1, began, 0)
    except (psutil.Error, OSError):
        return None


def _portable_environment(pid: int) -> Mapping[str, str]:
    import psutil

    try:
        environment: Mapping[str, str] = psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return {}
    return environment


# All processes.


def pids() -> list[int]:
    """Every process there is."""
    if HAS_PROCFS:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    import psutil

    numbers: list[int] = psutil.pids()
    return numbers


def look() -> list[Seen]:
    """Every process of this machine, with its marks where it has any that we may read.

    Looked for until there are no new ones: of those who fork and exit again and again, the child
    is there before the parent has gone.

    Raises:
        OSError: one of :data:`SHORTAGES` keeps us from looking.
    """
    known: dict[int, Seen | None] = {}
    for _ in range(LOOK_PASSES):
        new = [pid for pid in pids() if pid not in known]
        known.update((pid, _see(pid)) for pid in new)
        if not new:
            break
    return [seen for seen in known.values() if seen is not None]


def _see(pid: int) -> Seen | None:
    stat = read_stat(pid)
    if stat is None:
        return None
    return Seen(stat, read_marks(pid) if pid > 1 and not stat.is_kernel else None)


def children() -> frozenset[int] | None:
    """Our own children, dead ones included; None where the platform does not tell. Source: proc_pid_children(5)."""
    found: set[int] = set()
    try:
        for thread in os.listdir("/proc/self/task"):
            found.update(map(int, _read(f"/proc/self/task/{thread}/children").split()))
    except OSError:  # also a thread that has just ended: its children are another's now
        return None
    return frozenset(found)


def measure(pids: Iterable[int]) -> tuple[dict[int, float], int]:
    """Seconds of processor time by pid, and the resident bytes of all."""
    import psutil

    spent: dict[int, float] = {}
    resident = 0
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            times = process.cpu_times()
            spent[pid] = times.user + times.system
            resident += process.memory_info().rss
    return spent, resident


# Pidfds.


@functools.cache
def has_pidfd() -> bool:
    """Whether processes can be held by a descriptor. Source: pidfd_open(2), Linux 5.3."""
    if sys.platform != "linux" or not hasattr(signal, "pidfd_send_signal"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


@functools.cache
def has_pidfd_inodes() -> bool:
    """Whether each process has a pidfd inode of its own (pidfs, Linux 6.9).

    Before that all pidfds shared one anonymous inode, on the file system where eventfds are too.
    """
    if sys.platform != "linux" or not has_pidfd():
        return False
    pidfd, event = os.pidfd_open(os.getpid()), os.eventfd(0)
    try:
        return os.fstat(pidfd).st_dev != os.fstat(event).st_dev
    finally:
        os.close(pidfd)
        os.close(event)


def inode_of(pidfd: int) -> int | None:
    """The inode that no other process of this boot ever has, where the kernel gives one."""
    return os.fstat(pidfd).st_ino if has_pidfd_inodes() else None


def open_pidfd(pid: int) -> int | None:
    """Hold a process, so that what follows concerns it and no later owner of its pid."""
    if sys.platform != "linux" or not has_pidfd():
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


@contextmanager
def held(pid: int) -> Iterator[int | None]:
    """The same for the length of a block."""
    pidfd = open_pidfd(pid)
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def is_pidfd_over(pidfd: int) -> bool:
    """Whether the process has exited with all its threads. By poll, as descriptors go beyond 1023."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def send(pid: int, pidfd: int | None, number: int) -> bool:
    """Send a signal, through the pidfd where there is one; False where that is not permitted.

    Nothing happens if the process is gone.
    """
    if pid <= 1 or pid == os.getpid():
        return False
    with suppress(ProcessLookupError):
        try:
            if pidfd is not None and sys.platform == "linux":
                signal.pidfd_send_signal(pidfd, number)
            else:
                os.kill(pid, number)
        except PermissionError:
            return False
    return True


# How a process ended.


def peek(pid: int) -> ExitStatus | None:
    """How a child of ours ended, None while it runs. It is not reaped by that.

    Raises:
        ChildProcessError: it is no child of ours, or was reaped.
    """
    code, number = _peek_of_libc(pid) if sys.platform == "darwin" else _peek(pid)
    if code is None:
        return None
    return ExitStatus(code=number) if code == os.CLD_EXITED else ExitStatus(signal=signal_name(number))


def _peek(pid: int) -> tuple[int | None, int]:
    seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return (seen.si_code, seen.si_status) if seen is not None else (None, 0)


def _peek_of_libc(pid: int) -> tuple[int | None, int]:
    """The same for macOS, where Python has waitid from 3.13 on only. Source: its sys/wait.h, sys/signal.h."""
    info = (ctypes.c_int * 64)()  # si_signo, si_errno, si_code, si_pid, si_uid, si_status, ...
    if ctypes.CDLL(None, use_errno=True).waitid(1, pid, ctypes.byref(info), 0x04 | 0x01 | 0x20) != 0:
        raise ChildProcessError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return (info[2], info[5]) if info[3] else (None, 0)


def status_of_wait_word(word: int) -> ExitStatus:
    """The exit status in the word that wait(2) gives."""
    if os.WIFSIGNALED(word):
        return ExitStatus(signal=signal_name(os.WTERMSIG(word)))
    return ExitStatus(code=os.WEXITSTATUS(word))


def status_of_stranger(pid: int, ticks: int, pidfd: int | None) -> ExitStatus:
    """How a process ended that is no child of ours; unknown where the platform does not tell.

    As long as it is a zombie, procfs tells; after the reap, the pidfd does (Linux 6.15).
    """
    with suppress(OSError):
        stat = read_stat(pid) if HAS_PROCFS else None
        if stat is not None and stat.start_ticks == ticks and not stat.is_alive:
            is_told = stat.exit_word != 0 or _may_look_into(pid)
            return status_of_wait_word(stat.exit_word) if is_told else ExitStatus()
    if pidfd is None:
        return ExitStatus()
    answer = bytearray(struct.pack("=Q", PIDFD_INFO_EXIT).ljust(64, b"\0"))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, answer)
    except OSError:
        return ExitStatus()
    mask, word = struct.unpack_from("=Q52xi", answer)
    return status_of_wait_word(word) if mask & PIDFD_INFO_EXIT else ExitStatus()


def _may_look_into(pid: int) -> bool:
    """Whether procfs tells us how a process ended: of one that became another user's, may do what we may not or
    hides itself, it says 0. Its links are kept from us by the same check, and a zombie has none.
    Source: ptrace(2), PTRACE_MODE_READ_FSCREDS."""
    try:
        os.readlink(f"/proc/{pid}/cwd")
    except PermissionError:
        return False
    except OSError:
        return True
    return True


# Signals to what was seen.


def strike(seen: Seen, number: int) -> None:
    """Send a signal to a process that was seen, if its pid is still that process."""
    with held(seen.pid) as pidfd:
        now = read_stat(seen.pid)
        if now is None or now.start_ticks != seen.stat.start_ticks:
            return
        # Start times collide where pids are reused fast; but a stranger has other marks and other kin.
        is_kin = now.session == seen.stat.session or now.ppid == seen.stat.ppid
        if is_kin and read_marks(seen.pid) == seen.marks:
            send(seen.pid, pidfd, number)


def kill_all(members: Iterable[Seen], is_member: Callable[[Marks], bool], *, freeze: bool) -> None:
    """Kill what was seen. With ``freeze``, stop it first, and whoever of it comes to be meanwhile.

    A fork bomb fills the place of each killed process at once, and who forks and exits all the time
    is gone before the signal. Of stopped ones there come no more.
    """
    caught = list(members)
    if freeze:
        caught += _stop_on_sight({seen.pid for seen in caught}, is_member)
    for seen in caught:
        strike(seen, signal.SIGKILL)


def _stop_on_sight(family: set[int], is_member: Callable[[Marks], bool]) -> list[Seen]:
    """Stop members until there is nobody whom we have not looked at. The newest, who are the next to
    fork and be gone, come first, and nobody waits for a long list."""
    known: set[int] = set()
    caught: list[Seen] = []
    deadline = time.monotonic() + FREEZE_SPAN
    while (new := set(pids()) - known) and time.monotonic() < deadline:
        newest = sorted(new, reverse=True)[:NEWEST]
        known.update(newest)
        for pid in newest:
            # Held before it is judged, so that the signal can reach nobody else.
            with held(pid) as pidfd:
                seen = _see(pid)
                if seen is not None and _belongs(seen, family, is_member):
                    send(pid, pidfd, signal.SIGSTOP)
                    caught.append(seen)
                    family.add(pid)
    return caught


def _belongs(seen: Seen, family: set[int], is_member: Callable[[Marks], bool]) -> bool:
    if not seen.stat.is_alive or seen.pid == os.getpid():
        return False
    is_kin = seen.pid in family or seen.stat.ppid in family
    return is_kin or (seen.marks is not None and is_member(seen.marks))
