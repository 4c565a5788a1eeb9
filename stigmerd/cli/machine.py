"""What this machine offers a supervisor: the checks of ``doctor`` that need no home and no daemon.

What the daemon would try at its start is tried here in the same way, and left as it was.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from stigmerd.adapters.processes import cgroup, proc
from stigmerd.adapters.processes.platform import become_subreaper

OLDEST_KERNEL = (5, 4)
ENOUGH_DESCRIPTORS = 4096
ENOUGH_PROCESSES = 1024
OLDEST_TIME = 1735689600.0
"""The beginning of 2025: a clock before that was never set."""

GOOD, FAIR, BAD = "good", "busy", "bad"


class Finding(NamedTuple):
    """One thing that was looked at. ``advice`` is what to do, where there is something to do."""

    level: str
    subject: str
    sentence: str
    advice: str = ""


def look_at_machine(home: str) -> Iterator[Finding]:
    """The platform, what it lets the daemon prove, its limits, its clock, and the command of our name."""
    yield _platform()
    yield _identity()
    if sys.platform == "linux":
        yield _descendants(home)
    yield _descriptors()
    yield _processes()
    yield _clock()
    yield from _command()


def _platform() -> Finding:
    release = platform.release()
    said = f"{platform.system()} {release}, Python {platform.python_version()}"
    if sys.platform == "linux":
        numbers = release.replace("-", ".").split(".")[:2]
        if all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) < OLDEST_KERNEL:
            return Finding(BAD, "platform", said, "stigmerd needs Linux 5.4 or later")
    return Finding(GOOD, "platform", said)


def _identity() -> Finding:
    if proc.has_pidfd():
        return Finding(GOOD, "identity", "processes are held by pidfd: no signal goes to a stranger")
    advice = "Linux 5.4 has pidfd; a container's seccomp profile may hide it" if sys.platform == "linux" else ""
    said = "no pidfd here: processes are told apart by start time and environment"
    return Finding(FAIR, "identity", said, advice)


def _descendants(home: str) -> Finding:
    base = cgroup.find_base(home)
    if base is not None:
        return Finding(GOOD, "descendants", f"each life gets a cgroup of its own, below {os.path.dirname(base)}")
    if become_subreaper():  # of this short-lived process
        said = "no cgroup v2 folder is ours to divide: descendants are found as subreaper and by their environment"
    else:
        said = "neither cgroup v2 nor a subreaper here: descendants are found by their environment alone"
    return Finding(FAIR, "descendants", said, "Under systemd: systemd-run --user --scope -p Delegate=yes stigmerd")


def _descriptors() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_DESCRIPTORS:
        return Finding(FAIR, "descriptors", f"at most {hard} open files", "Raise it with: ulimit -Hn 65536")
    return Finding(GOOD, "descriptors", f"at most {_count(hard)} open files")


def _processes() -> Finding:
    """How many processes may be there: of the user, and of the cgroup that this one is in."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    group = cgroup.pids_limit()
    if group is not None and (limit == resource.RLIM_INFINITY or group < limit):
        limit, advice = group, "Raise pids.max of this cgroup; under systemd: TasksMax=infinity"
    else:
        advice = "Raise it with: ulimit -u 65536"
    if limit != resource.RLIM_INFINITY and limit < ENOUGH_PROCESSES:
        return Finding(FAIR, "processes", f"at most {limit} processes and threads", advice)
    return Finding(GOOD, "processes", f"at most {_count(limit)} processes and threads")


def _count(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)


def _clock() -> Finding:
    now = time.time()
    said = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if now < OLDEST_TIME:
        return Finding(FAIR, "clock", f"{said} cannot be right", "Set it: times of logs and events are taken from it")
    return Finding(GOOD, "clock", f"{said}; waiting and restarting go by the monotonic clock")


def _command() -> Iterator[Finding]:
    """Whether what is typed as ``stigmer`` is this program."""
    found = shutil.which("stigmer")
    ours = os.path.join(os.path.dirname(sys.executable), "stigmer")
    if found is None:
        advice = f"Type {ours}, or put its folder on the PATH"
        yield Finding(FAIR, "command", "stigmer is not on the PATH", advice)
    elif os.path.realpath(found) != os.path.realpath(ours) and not _is_script(found):
        yield Finding(FAIR, "command", f"{found} comes first on the PATH, and is another program", f"Type {ours}")


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True
