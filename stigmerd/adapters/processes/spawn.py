"""Makes one process, clean and in its cgroup leaf from its first instruction, or says why it cannot.

All of it blocks (a hung file system is enough), so it runs in a thread of its own. What is spawned
here is reaped by whoever gets the :class:`Spawned`. Nothing runs between fork and exec: what has to
happen in the child happens in a shell that then becomes the program.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import resource
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from stigmerd.adapters.processes import prepare, proc
from stigmerd.adapters.processes.cgroup import Leaf
from stigmerd.adapters.processes.prepare import Owner, Refused
from stigmerd.adapters.processes.reaper import Children
from stigmerd.engine.ports import SpawnFailedError

SHELL = "/bin/sh"

PRIVATE_NAMES = frozenset(
    {
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        proc.HOME_MARK,
        proc.COMPONENT_MARK,
        proc.LIFE_MARK,
        proc.PROBE_MARK,
    }
)
"""What in the daemon's own environment speaks to the daemon alone."""

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SHELL_NAMES = frozenset({"IFS", "OPTIND", "PPID", "UID", "EUID", "SHELLOPTS", "BASHOPTS"})
"""Variables that shells do not hand on as they are."""

MACH_MAGICS = frozenset({b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"})
PT_INTERP = 3
SCRIPT_DEPTH = 4
HEAD_SIZE = 4096
"""Bytes of an executable that are read; program headers and ``#!`` lines are in them."""

ARRIVAL_LIMIT = 0.05
"""Seconds in which a child of another user has to have moved itself into its leaf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A process to be. ``env`` is complete.

    ``open_output`` gives a descriptor for stdout and stderr, which is closed here. ``soft_nofile``
    is the limit of descriptors that children get where ``nofile`` asks for none.
    """

    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    open_output: Callable[[], int]
    user: str | int | None = None
    group: str | int | None = None
    umask: int | None = None
    nofile: int | None = None
    soft_nofile: int | None = None
    leaf: Leaf | None = None
    use_pidfd: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """A process that came to be, unreaped. ``sealed``: it was in ``leaf`` before it could fork."""

    pid: int
    start_ticks: int | None
    pidfd: int | None
    leaf: Leaf | None
    sealed: bool


def without_private(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the daemon's environment others may have."""
    return {name: value for name, value in environment.items() if name not in PRIVATE_NAMES}


def environment_for(
    base: Mapping[str, str], env: Mapping[str, str], *, cwd: str, marks: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a process: the daemon's, over it the component's, over it the marks.

    PWD follows the folder: an inherited one would name the daemon's.
    """
    return {**base, "PWD": cwd, **env, **marks}


def spawn(blueprint: Blueprint, children: Children) -> Spawned:
    """Make the process.

    Raises:
        SpawnFailedError: there is none; the message has the path and the reason.
    """
    try:
        owner = prepare.find_owner(blueprint.user, blueprint.group)
        prepare.check_folder(blueprint.cwd)
        prepare.check_nofile(blueprint.nofile, owner)
        program = prepare.find_program(blueprint.argv[0], blueprint.cwd, blueprint.env)
    except Refused as exc:
        raise SpawnFailedError(str(exc), errno=exc.errno) from exc
    leaf = make_leaf(blueprint.leaf)
    try:
        return _spawn(blueprint, program, owner, leaf, children)
    except SpawnFailedError:
        if leaf is not None:
            leaf.remove()
        raise


def end(spawned: Spawned, children: Children) -> None:
    """End and reap a process that nobody wants any more. Blocks until it is dead."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(spawned.pid, signal.SIGKILL)  # unreaped, so the group is still its own
    if spawned.leaf is not None:
        spawned.leaf.kill()
    with suppress(ChildProcessError):
        os.waitpid(spawned.pid, 0)
    children.disclaim(spawned.pid)
    if spawned.pidfd is not None:
        os.close(spawned.pidfd)
    if spawned.leaf is not None:
        spawned.leaf.remove()


def _spawn(blueprint: Blueprint, program: str, owner: Owner | None, leaf: Leaf | None, children: Children) -> Spawned:
    soft, hard = _limits(blueprint)
    argv = [program, *blueprint.argv[1:]]
    is_prefixed = (leaf is not None or soft is not None) and _can_prefix(blueprint, program, owner)
    if is_prefixed:
        argv = [SHELL, "-c", _prefix(leaf, soft, hard), "sh", *argv]
    pid = _popen(blueprint, program, argv, owner, leaf if is_prefixed else None, children)
    is_sealed = leaf is not None and is_prefixed and (owner is None or _arrives(pid, leaf))
    if leaf is not None and not is_sealed:
        leaf.add(pid)
    if soft is not None and not is_prefixed:
        limit_nofile(pid, soft, hard)
    return Spawned(
        pid=pid,
        start_ticks=proc.start_ticks(pid),
        pidfd=proc.open_pidfd(pid) if blueprint.use_pidfd else None,
        leaf=leaf,
        sealed=is_sealed,
    )


def _popen(
    blueprint: Blueprint,
    program: str,
    argv: list[str],
    owner: Owner | None,
    leaf: Leaf | None,
    children: Children,
) -> int:
    output = open_output(blueprint)
    stdin = subprocess.DEVNULL
    try:
        if leaf is not None:
            stdin = leaf.open_procs()
        with children.spawning():
            process = subprocess.Popen(
                argv,
                cwd=blueprint.cwd,
                env=blueprint.env,
                stdin=stdin,
                stdout=output,
                stderr=output,
                close_fds=True,
                start_new_session=True,
                restore_signals=True,
                umask=-1 if blueprint.umask is None else blueprint.umask,
                user=owner.uid if owner is not None else None,
                group=owner.gid if owner is not None else None,
                extra_groups=owner.groups if owner is not None else None,
            )
            children.claim(process.pid)
    except OSError as exc:
        raise _exec_failed(program, exc) from exc
    except ValueError as exc:
        raise SpawnFailedError(f"{program}: {exc}", errno=errno.EINVAL) from exc
    finally:
        os.close(output)
        if stdin >= 0:
            os.close(stdin)
    # As it looks finished to subprocess, nothing there ever waits for it behind our back.
    process.returncode = 0
    return process.pid


def _exec_failed(program: str, exc: OSError) -> SpawnFailedError:
    refused = prepare.exec_refusal(program, exc)
    is_before_exec = exc.filename is not None and exc.filename not in {program, SHELL}
    return SpawnFailedError(f"{'preparing ' if is_before_exec else ''}{refused}", errno=refused.errno)


def open_output(blueprint: Blueprint) -> int:
    """The descriptor for stdout and stderr.

    Raises:
        SpawnFailedError: the log cannot be opened.
    """
    try:
        return blueprint.open_output()
    except OSError as exc:
        name = f"{exc.filename}: " if exc.filename else ""
        # What is refused for what it is has no errno, and says which path and what to do.
        raise SpawnFailedError(f"log: {name}{exc.strerror or exc}", errno=exc.errno) from exc


# The leaf.


def make_leaf(leaf: Leaf | None) -> Leaf | None:
    """The leaf, made; None where that fails, as a life without one is better than none."""
    if leaf is None:
        return None
    try:
        leaf.create()
    except OSError:
        return None
    return leaf


# The shell that becomes the program.


def _prefix(leaf: Leaf | None, soft: int | None, hard: int | None) -> str:
    steps = []
    if leaf is not None:
        # The descriptor was opened by us, so that it works for a child of another user too.
        steps.append("{ echo 0 >&0; } 2>/dev/null")
    if soft is not None:
        steps.append(f"ulimit {'-S ' if hard is None else ''}-n {soft}")
    steps.append('exec "$@" </dev/null')
    return "; ".join(steps)


def _can_prefix(blueprint: Blueprint, program: str, owner: Owner | None) -> bool:
    """Whether the shell hands on the environment as it is, and its exec is sure to succeed.

    A shell turns errors of exec into exit codes, runs as a script what exec refuses, and drops
    variables whose names it cannot have; the loader's variables work on the shell as well.
    """
    for name in blueprint.env:
        if not IDENTIFIER.fullmatch(name) or name in SHELL_NAMES or name.startswith(("LD_", "DYLD_")):
            return False
    if blueprint.env.get("PWD") != blueprint.cwd:
        return False
    return os.access(SHELL, os.X_OK) and _is_exec_sure(program, owner, SCRIPT_DEPTH)


def _is_exec_sure(path: str, owner: Owner | None, depth: int) -> bool:
    """Whether exec accepts a file for certain: a binary for this machine with its loader, or a script
    for one."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    is_permitted = os.access(path, os.X_OK) and (owner is None or _is_for_everybody(path))
    if depth == 0 or not is_permitted or not stat.S_ISREG(found.st_mode):
        return False
    interpreter = _interpreter(path, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    return interpreter == "" or (interpreter is not None and _is_exec_sure(interpreter, owner, depth - 1))


def _is_for_everybody(path: str) -> bool:
    """Whether any user may execute the file: it is for all, and so is each folder above."""
    path = os.path.realpath(path)
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


@functools.lru_cache(maxsize=1024)
def _interpreter(path: str, device: int, inode: int, changed: int, touched: int) -> str | None:
    """What else exec has to find to run this file: "" for nothing, None if it may not run at all.

    The other arguments are there for the cache, which ends with the file's next change.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_SIZE)
    except OSError:
        return None
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split()
        return os.fsdecode(words[0]) if words and words[0].startswith(b"/") and b"\n" in head[:256] else None
    if sys.platform == "darwin":
        return "" if head[:4] in MACH_MAGICS else None
    return _elf_loader(head)


def _elf_loader(head: bytes) -> str | None:
    """The loader of an ELF file of our own kind, "" if it is static, None if it is of another kind."""
    ours = _own_elf_head()
    is_like_ours = len(head) > 64 and head[:6] == ours[:6] and head[18:20] == ours[18:20]
    if not is_like_ours or head[4] != 2 or head[16] not in {2, 3}:
        return None
    offset, size, count = struct.unpack_from("=Q14xHH", head, 32)
    for start in range(offset, offset + size * count, size):
        if start + 56 > len(head):
            return None
        kind, position, length = struct.unpack_from("=I4xQ16xQ", head, start)
        if kind == PT_INTERP:
            loader = head[position : position + length].rstrip(b"\0")
            return os.fsdecode(loader) if loader else None
    return ""


@functools.cache
def _own_elf_head() -> bytes:
    with open("/proc/self/exe", "rb") as file:
        return file.read(64)


# What is done to a child that came without the shell.


def _limits(blueprint: Blueprint) -> tuple[int | None, int | None]:
    """The soft and the hard limit of descriptors to set, None for those to leave as they are."""
    if blueprint.nofile is not None:
        return blueprint.nofile, blueprint.nofile
    is_same = blueprint.soft_nofile == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (None if is_same else blueprint.soft_nofile), None


def limit_nofile(pid: int, soft: int, hard: int | None) -> None:
    """Lower the limits from outside, where the platform can: late, but before most programs look."""
    if sys.platform == "linux":
        with suppress(OSError, ValueError):
            present = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, present if hard is None else hard))


def _arrives(pid: int, leaf: Leaf) -> bool:
    """Whether a child of another user gets into its leaf; kernels before 5.16 refuse that."""
    deadline = time.monotonic() + ARRIVAL_LIMIT
    while time.monotonic() < deadline:
        if os.path.basename(proc.cgroup_of(pid) or "") == os.path.basename(leaf.path):
            return True
        time.sleep(0.0005)
    return False
