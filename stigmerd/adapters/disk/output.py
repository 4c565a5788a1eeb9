"""The log files: opened safely for the components, given the daemon's own lines, kept small.

A component writes straight to its log, so it goes on writing whatever becomes of the daemon. What
is in the logs is not this module's business; how they are cut is :mod:`stigmerd.adapters.disk.rotation`'s,
how they are read :mod:`stigmerd.adapters.disk.tail`'s.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import defaultdict

from stigmerd.adapters.disk.files import RefusedError, open_regular
from stigmerd.adapters.disk.home import Home, HomeError
from stigmerd.adapters.disk.rotation import Rotation, can_collapse
from stigmerd.adapters.disk.tail import LogTail, tail_texts
from stigmerd.core.instant import rfc3339
from stigmerd.core.spec import LogPolicy

__all__ = ["DAEMON", "LogFiles", "LogRefusedError", "LogTail", "tail_texts"]

DAEMON = "stigmerd"
"""The name of the daemon's own log."""

_SAY_AGAIN = 10.0
"""Seconds between two lines about dropped output in one log."""
_WAITING_LIMIT = 100
"""Lines of ours that wait for one log; of more, the oldest are lost."""
_FORGET_DROPS = 60.0
"""Seconds after which dropped output is no present problem any more."""


class LogRefusedError(RefusedError):
    """What lies in a log's place is no log: ``path`` and ``reason`` tell."""


class LogFiles:
    """The engine's ``Logs``, and what spawning and the daemon need of them.

    ``note``, ``append`` and ``open_for_child`` cost a few system calls and may be used from any
    thread. ``recover``, ``find_due`` and ``rotate`` wait for the disk, and belong to worker threads;
    no log is rotated by two at once.
    ``collapses`` tells whether the file system can cut files at their head; None: find out.
    """

    def __init__(self, home: Home, *, collapses: bool | None = None) -> None:
        self._home = home
        self._collapses = collapses
        self._policies: dict[str, LogPolicy] = {DAEMON: LogPolicy()}
        self._writing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """By component: a log that is being rotated holds up no line in another."""
        self._rotating: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._problems: dict[tuple[str, str], str] = {}
        self._counting = threading.Lock()
        self._drops: dict[str, _Drops] = {}
        self._unwritten: dict[str, list[bytes]] = {}
        """By component: the lines of ours that its log did not take yet."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what is wrong with the logs now."""
        return tuple(self._problems.copy().values())

    def path(self, component: str) -> str:
        """The absolute path of a component's log."""
        return os.path.join(self._home.logs, f"{component}.log")

    def rule(self, component: str, policy: LogPolicy) -> None:
        """Keep this component's log within ``policy`` from now on."""
        self._policies[component] = policy

    def open_for_child(self, component: str) -> int:
        """The log, open for appending, to be a component's output. It is close-on-exec.

        Raises:
            LogRefusedError: something else than a log of ours lies in its place.
            OSError: the system refused.
        """
        return self._open(component, os.O_WRONLY)

    def note(self, component: str, text: str) -> None:
        """Write one line of the daemon into a component's log, in one write, on a line of its own.

        Never raises: what cannot be written is in :attr:`problems`.
        """
        line = f"{rfc3339(time.time())} stigmerd[{component}]: {' '.join(text.splitlines())}\n"
        self.append(component, line.encode("utf-8", "backslashreplace"))

    def append(self, component: str, line: bytes) -> None:
        """Write one line, with its newline, in one write and on a line of its own. Never raises.

        What a full disk refuses is tried again with the next line, and at each :meth:`rotate_due`.
        """
        with self._writing[component]:
            self._write(component, [*self._unwritten.pop(component, ()), line])

    def _write(self, component: str, lines: list[bytes]) -> None:
        key = (component, "write")
        try:
            fd = self._open(component, os.O_RDWR)
            try:
                while lines:
                    _write_line(fd, lines[0])
                    lines = lines[1:]
            finally:
                os.close(fd)
        except OSError as exc:
            self._problems[key] = _sentence(self.path(component), "written", exc)
            self._unwritten[component] = lines[-_WAITING_LIMIT:]
        else:
            self._problems.pop(key, None)

    def _write_again(self) -> None:
        for component in list(self._unwritten):
            with self._writing[component]:
                if lines := self._unwritten.pop(component, []):
                    self._write(component, lines)

    def recover(self) -> None:
        """Put in order what a daemon left that died while it rotated. Before any component starts."""
        for component in self._found():
            try:
                self._rotation(component).settle()
            except OSError as exc:
                self._problems[component, "rotate"] = _sentence(self.path(component), "rotated", exc)

    def rotate_due(self) -> None:
        """Rotate every log that is too large, one after the other. Never raises."""
        for component in self.find_due():
            self.rotate(component)

    def find_due(self) -> list[str]:
        """Whose logs are too large. It also writes what a log did not take before, and what was dropped.

        To be called four times a second. Never raises.
        """
        self._write_again()
        self._say_drops()
        due = [component for component, policy in list(self._policies.items()) if self._is_due(component, policy)]
        if due and self._collapses is None:
            try:
                self._collapses = can_collapse(self._home.logs)
            except OSError as exc:
                self._problems[due[0], "rotate"] = _sentence(self.path(due[0]), "rotated", exc)
                return []
        return due

    def _is_due(self, component: str, policy: LogPolicy) -> bool:
        try:
            return os.lstat(self.path(component)).st_size > policy.max_size
        except OSError:
            self._problems.pop((component, "rotate"), None)
            return False

    def rotate(self, component: str) -> None:
        """Rotate a log that is due. Several may be rotated at once, in a thread each. Never raises.

        Another call for the same log that is under way in another thread comes to its end first.
        """
        key, policy = (component, "rotate"), self._policies[component]
        try:
            with self._rotating[component]:
                self._tell_drops(component, self._rotation(component).rotate(policy))
        except FileNotFoundError:
            self._problems.pop(key, None)
        except OSError as exc:
            self._problems[key] = _sentence(self.path(component), "rotated", exc)
        else:
            self._problems.pop(key, None)

    def _open(self, component: str, access: int) -> int:
        path = self.path(component)
        flags = access | os.O_APPEND | os.O_CREAT
        try:
            try:
                return open_regular(path, flags)
            except FileNotFoundError:
                self._home.prepare()  # somebody removed the folder
                return open_regular(path, flags)
        except RefusedError as exc:
            raise LogRefusedError(exc.path, exc.reason) from exc
        except HomeError as exc:
            raise OSError(str(exc)) from exc

    def _rotation(self, component: str) -> Rotation:
        # To settle a rotation it need not be known; to rotate it is found out before.
        return Rotation(self.path(component), self._writing[component], collapses=bool(self._collapses))

    def _found(self) -> list[str]:
        """The components that have a log, configured or not."""
        try:
            names = os.listdir(self._home.logs)
        except OSError:
            return []
        return [name.removesuffix(".log") for name in names if name.endswith(".log")]

    def _tell_drops(self, component: str, dropped: int) -> None:
        """Count what was written too fast to be kept."""
        if not dropped:
            return
        with self._counting:
            drops = self._drops.setdefault(component, _Drops())
            drops.total += dropped
            drops.unsaid += dropped
            drops.at = time.monotonic()
        self._problems[component, "drop"] = (
            f"{self.path(component)}: {drops.total} bytes were dropped, since {component} writes faster "
            "than can be kept: give its log a larger max_size, or let it write less"
        )

    def _say_drops(self) -> None:
        """Write what was dropped into the logs, not too often, and forget it in the end."""
        now = time.monotonic()
        unsaid: dict[str, int] = {}
        with self._counting:
            for component, drops in list(self._drops.items()):
                if drops.unsaid and now >= drops.say_at:
                    unsaid[component], drops.unsaid = drops.unsaid, 0
                    drops.say_at = now + _SAY_AGAIN
                if now >= drops.at + _FORGET_DROPS:
                    del self._drops[component]
                    self._problems.pop((component, "drop"), None)
        for component, count in unsaid.items():
            self.note(component, f"Dropped {count} bytes of output: written faster than can be kept")


class _Drops:
    """What was dropped of one log. Instants are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.total = 0
        self.unsaid = 0
        self.at = 0.0
        self.say_at = 0.0


def _write_line(fd: int, line: bytes) -> None:
    """Write a line on a line of its own.

    Raises:
        OSError: it is not there, or only a part of it.
    """
    size = os.fstat(fd).st_size
    begun = size > 0 and os.pread(fd, 1, size - 1) not in {b"\n", b""}
    whole = b"\n" + line if begun else line
    if os.write(fd, whole) < len(whole):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sentence(path: str, done: str, exc: OSError) -> str:
    if isinstance(exc, RefusedError) or exc.strerror is None:
        return str(exc)
    return f"{path} cannot be {done}: {exc.strerror}"
