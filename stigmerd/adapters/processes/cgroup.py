"""A cgroup v2 leaf per life: it holds every descendant, whatever it does, and one write ends all.

Used where our own folder in the tree may be written and is ours to divide: delegated to us, or no
systemd runs that owns the tree. Nothing here uses Trio; all operations are short.
Source: cgroups(7); Documentation/admin-guide/cgroup-v2.rst; systemd's CGROUP_DELEGATION.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from stigmerd.adapters.processes import proc

PROCS = "cgroup.procs"
EVENTS = "cgroup.events"
KILL = "cgroup.kill"

SMALL_SIZE = 4096
"""Bytes that no flat keyed file which is read here comes near."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The cgroup of one life, or of one command that probes it. ``path`` is absolute."""

    path: str

    @property
    def component(self) -> str:
        """The first part of the name; component names have no dot."""
        return os.path.basename(self.path).split(".")[0]

    @property
    def nonce(self) -> str:
        """The life that this leaf belongs to."""
        return os.path.basename(self.path).split(".")[1]

    @property
    def probe(self) -> str | None:
        """The probe's own nonce, None for the leaf of a life."""
        parts = os.path.basename(self.path).split(".")
        return parts[2] if len(parts) > 2 else None

    def create(self) -> None:
        """Make it. One that exists, which only the same nonce can have made, is used as it is."""
        try:
            os.mkdir(self.path)
        except FileExistsError:
            return
        except FileNotFoundError:
            os.makedirs(self.path, exist_ok=True)

    def open_folder(self) -> int:
        """A descriptor for cloning processes into it."""
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_procs(self) -> int:
        """A descriptor for moving processes in: who writes ``0`` to it moves itself."""
        return os.open(f"{self.path}/{PROCS}", os.O_WRONLY | os.O_CLOEXEC)

    def open_events(self) -> int:
        """A descriptor that has an exceptional condition when :meth:`is_populated` changes."""
        return os.open(f"{self.path}/{EVENTS}", os.O_RDONLY | os.O_CLOEXEC)

    def add(self, pid: int) -> bool:
        """Move a process in, and say whether that went well. Its children of before stay outside."""
        return _write(f"{self.path}/{PROCS}", str(pid))

    def is_populated(self) -> bool:
        """Whether anything in it, or in what a component made inside, is alive. Zombies are not.

        Where that cannot be told for want of a descriptor, somebody may be.
        """
        try:
            return b"populated 1" in _read(f"{self.path}/{EVENTS}")
        except OSError as exc:
            return exc.errno in proc.SHORTAGES

    def pids(self) -> list[int]:
        """What is alive in it, at any depth."""
        found = []
        for folder, _, _ in os.walk(self.path):
            with suppress(OSError), open(os.path.join(folder, PROCS), encoding="ascii") as file:
                found += [int(line) for line in file]
        return [pid for pid in found if pid > 0]

    def kill(self) -> None:
        """SIGKILL everything in it, forks under way included; but never the calling process."""
        if os.path.basename(self.path) in (proc.cgroup_of(os.getpid()) or "").split("/"):
            self._kill_others()  # a component may itself have started this daemon
        else:
            _write(f"{self.path}/{KILL}", "1")

    def _kill_others(self) -> None:
        for pid in self.pids():
            with proc.held(pid) as pidfd:
                if pid in self.pids():
                    proc.send(pid, pidfd, signal.SIGKILL)

    def oom_kills(self) -> int | None:
        """How many of it the out-of-memory killer took, None where the kernel does not count here."""
        if not _has_memory_controller(os.path.dirname(self.path)):
            return None
        return _keyed(f"{self.path}/memory.events").get("oom_kill")

    def remove(self) -> bool:
        """Remove it with what a component made inside. False while something in it is alive."""
        with suppress(OSError):
            os.rmdir(self.path)  # mostly there is nothing inside to be looked for
            return True
        for folder, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError as exc:
                return exc.errno not in {errno.EBUSY, errno.ENOTEMPTY}
        return True


def find_base(home: str) -> str | None:
    """The folder in which leaves for this home can be made, after trying it; None where they cannot."""
    own = _own_folder()
    if own is None or not os.access(os.path.join(own, PROCS), os.W_OK) or not _is_ours_to_divide(own):
        return None
    base = os.path.join(own, base_name(home))
    trial = Leaf(os.path.join(base, f"trial.{os.getpid()}"))
    try:
        trial.create()
        is_usable = os.path.exists(os.path.join(trial.path, KILL)) and _can_enter(trial)
        return base if is_usable else None
    except OSError:
        return None
    finally:
        trial.remove()
        remove_base(base)


def _can_enter(leaf: Leaf) -> bool:
    """Whether a child can move itself in, which threaded and half delegated trees refuse."""
    with open(leaf.open_procs(), "wb") as procs:
        return subprocess.run(["/bin/sh", "-c", "echo 0 >&0"], stdin=procs, stderr=subprocess.DEVNULL).returncode == 0


def pids_limit() -> int | None:
    """How many processes and threads our own cgroup and those around it may hold; None: as many as they like."""
    folder, mount = _own_folder(), _mount()
    limits: list[int] = []
    while folder is not None and mount is not None and folder.startswith(mount[0]):
        with suppress(OSError, ValueError), open(os.path.join(folder, "pids.max"), encoding="ascii") as file:
            limits.append(int(file.read()))  # "max" is no number
        folder = os.path.dirname(folder)
    return min(limits, default=None)


def base_name(home: str) -> str:
    """The name of the folder that holds the leaves of a home."""
    return f"stigmerd-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"


def leaf_in(base: str, component: str, nonce: str, probe: str | None = None) -> Leaf:
    """The leaf of a life, or of one of its probes, which is a neighbour and no part of it."""
    return Leaf(os.path.join(base, ".".join(filter(None, (component, nonce, probe)))))


def leaf_of(pid: int, home: str) -> Leaf | None:
    """The leaf of this home that a process is in, if it is in one. It may lie below another daemon's cgroup."""
    mount, place = _mount(), proc.cgroup_of(pid)
    if mount is None or place is None:
        return None
    parts = place.split("/")
    if base_name(home) not in parts[:-1]:
        return None
    depth = parts.index(base_name(home)) + 2
    path = _absolute(mount, "/".join(parts[:depth]))
    return Leaf(path) if path is not None and _is_leaf(path) else None


def recorded_leaf(path: str | None, home: str, component: str, nonce: str) -> Leaf | None:
    """The leaf that a record names, if it can only be the one that was made for this life."""
    mount = _mount()
    if path is None or mount is None or os.path.normpath(path) != path:
        return None
    expected = leaf_in(os.path.dirname(path), component, nonce).path
    is_ours = path == expected and os.path.basename(os.path.dirname(path)) == base_name(home)
    is_mounted = path.startswith(mount[0] + "/") and os.path.exists(os.path.join(path, EVENTS))
    return Leaf(path) if is_ours and is_mounted else None


def leaves(home: str) -> list[Leaf]:
    """The leaves of this home below our own cgroup, used or left over."""
    own = _own_folder()
    if own is None:
        return []
    base = os.path.join(own, base_name(home))
    try:
        paths = [os.path.join(base, name) for name in os.listdir(base)]
    except OSError:
        return []
    return [Leaf(path) for path in paths if _is_leaf(path) and os.path.isdir(path)]


@functools.cache
def _has_memory_controller(base: str) -> bool:
    """Whether the kernel counts for the leaves here. Cached: a failed open comes between an exit and the next spawn."""
    with suppress(OSError), open(f"{base}/cgroup.subtree_control", encoding="ascii") as file:
        return "memory" in file.read().split()
    return False


def remove_base(base: str) -> None:
    """Remove the folder of the leaves, if nothing is left in it."""
    with suppress(OSError):
        os.rmdir(base)


def _is_leaf(path: str) -> bool:
    return "." in os.path.basename(path) and not os.path.basename(path).startswith("cgroup.")


def _own_folder() -> str | None:
    mount, place = _mount(), proc.cgroup_of(os.getpid())
    return _absolute(mount, place) if mount is not None and place is not None else None


def _mount() -> tuple[str, str] | None:
    """Where the cgroup v2 tree is mounted, and which part of it. In a hybrid it is not /sys/fs/cgroup."""
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            if rest.startswith("cgroup2 "):
                return _unescaped(fields.split()[4]), _unescaped(fields.split()[3])
    return None


def _absolute(mount: tuple[str, str], place: str) -> str | None:
    point, root = mount[0], mount[1].rstrip("/")
    if not (place + "/").startswith(root + "/") or ".." in place.split("/"):
        return None  # outside of what is mounted here
    return os.path.normpath(point + "/" + place[len(root) :])


def _unescaped(path: str) -> str:
    """A path of mountinfo; space, tab, newline and backslash are octal there."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(octal, char)
    return path


def _is_ours_to_divide(folder: str) -> bool:
    if not os.path.isdir("/run/systemd/system"):
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError, AttributeError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _keyed(path: str) -> dict[str, int]:
    """A flat keyed file, {"oom_kill": 1}; empty where there is none."""
    try:
        lines = _read(path).decode("ascii").splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}


def _read(path: str) -> bytes:
    """A small file. Not by `open`, which takes six system calls more, between an exit and the next spawn.

    Raises:
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, SMALL_SIZE)
    finally:
        os.close(fd)


def _write(path: str, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
