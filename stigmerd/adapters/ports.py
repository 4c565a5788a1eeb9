"""Who listens on a TCP port of this machine.

With procfs the table of listeners is read on each look, which is cheap, and the owners are
searched only when there is a listener; elsewhere psutil tells both. What is seen are listeners of
any address of the port, IPv4 and IPv6, in the daemon's own network namespace.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil
import trio

COMMAND_LIMIT = 80
"""Characters of a stranger's command line that are shown."""

SEARCHES_AT_ONCE = 4

SEARCH_LIMIT = 1.0
"""Seconds after which a search for the owner is given up."""

SEEN_LIMIT = 64
"""Strangers that are looked at before all other processes."""

LISTEN = "0A"
"""The state's number in /proc/net/tcp. Source: linux/net/tcp_states.h."""

TABLES = ("tcp", "tcp6")

Sockets = list[tuple[int, frozenset[int]]]
"""The port of each listening socket with the pids that hold it; none, where none can be seen."""

Search = Callable[[frozenset[int], frozenset[int]], Sockets]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listener:
    port: int
    inode: str


class PortWatch:
    """Tells which process listens on a port. ``procfs`` is switched off by tests only."""

    def __init__(self, *, procfs: bool = sys.platform == "linux") -> None:
        self._procfs = procfs
        self._seen = frozenset[int]()
        """Who held a listener at the last search of all processes, and most likely still does."""
        # None of the threads that spawning uses.
        self._limiter = trio.CapacityLimiter(SEARCHES_AT_ONCE)

    async def strangers(self, ports: Sequence[int], ours: frozenset[int]) -> str | None:
        """One phrase, ``port 7234 is taken by pid 12 (nginx)``, if a process outside ``ours`` listens, else None.

        A socket that one of ``ours`` holds is ours, whoever else inherited it. Where it cannot be
        told in time the answer is None: no stranger was seen.
        """
        wanted = frozenset(ports)
        if not wanted or (self._procfs and not _read_listeners(wanted)):
            return None
        search = self._search_procfs if self._procfs else _search_psutil
        job = functools.partial(_find_stranger, search, wanted, ours)
        # A RuntimeError is Python's way to say that no thread can be started now; descriptors run out too.
        with trio.move_on_after(SEARCH_LIMIT), contextlib.suppress(RuntimeError, OSError):
            return await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=self._limiter)
        return None


    def _search_procfs(self, ports: frozenset[int], ours: frozenset[int]) -> Sockets:
        """Search our own processes first, and who was seen before: a look at all costs a thousandfold."""
        listeners = _read_listeners(ports)
        holders = _holders(listeners, ours | self._seen)
        if not all(holders.values()):
            holders = _holders(listeners, _pids())
            found = frozenset(pid for pids in holders.values() for pid in pids)
            self._seen = (self._seen | found if len(self._seen) < SEEN_LIMIT else found) - ours
        # One without a visible owner may have gone while we searched: look again before saying so.
        still_there = _read_listeners(ports)
        return [(listener.port, pids) for listener, pids in holders.items() if pids or listener in still_there]


def _find_stranger(search: Search, ports: frozenset[int], ours: frozenset[int]) -> str | None:
    """Run in a thread: to read another process's command line can hang with that process."""
    for port, holders in search(ports, ours):
        if not holders & ours:
            return f"port {port} is taken by {_describe(holders)}"
    return None


def _read_listeners(ports: frozenset[int]) -> frozenset[_Listener]:
    """The sockets that listen on ``ports`` now. Source: proc_net_tcp(5)."""
    found: set[_Listener] = set()
    for table in TABLES:
        # No IPv6, or a procfs that hides networks: then nobody can tell.
        with contextlib.suppress(OSError), open(f"/proc/self/net/{table}") as lines:
            next(lines, "")  # the heading
            found.update(listener for listener in _parse(lines) if listener.port in ports)
    return frozenset(found)


def _parse(lines: Iterable[str]) -> Iterator[_Listener]:
    """The listeners of one table. The kernel lists them before all connections."""
    for line in lines:
        fields = line.split()
        if fields[3] != LISTEN:
            return
        yield _Listener(port=int(fields[1].rpartition(":")[2], 16), inode=fields[9])


def _holders(listeners: frozenset[_Listener], pids: Iterable[int]) -> dict[_Listener, frozenset[int]]:
    """Which of ``pids`` have which of ``listeners`` among their open files."""
    wanted = {f"socket:[{listener.inode}]": listener for listener in listeners}
    holders: dict[_Listener, set[int]] = {listener: set() for listener in listeners}
    for pid in pids:
        for link in _open_files(pid):
            if link in wanted:
                holders[wanted[link]].add(pid)
    return {listener: frozenset(found) for listener, found in holders.items()}


def _open_files(pid: int) -> Iterator[str]:
    """What the descriptors of a process lead to, as far as we may look and it lives."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield os.readlink(entry.path)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _search_psutil(ports: frozenset[int], ours: frozenset[int]) -> Sockets:
    """The same without procfs, where the sockets of one port cannot be told apart.

    Of other users' processes macOS tells nothing but to root.
    """
    holders: dict[int, set[int]] = {}
    for port, pid in _listening():
        if port in ports:
            holders.setdefault(port, set()).update(() if pid is None else (pid,))
    return [(port, frozenset(pids)) for port, pids in holders.items()]


def _listening() -> Iterator[tuple[int, int | None]]:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        yield from _listening_process_by_process()
        return
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            yield connection.laddr.port, connection.pid


def _listening_process_by_process() -> Iterator[tuple[int, int | None]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr:
                    yield connection.laddr.port, process.pid


def _describe(pids: frozenset[int]) -> str:
    if not pids:
        return "another user's process"
    pid = min(pids)
    return f"pid {pid} ({_command(pid)})"


def _command(pid: int) -> str:
    """The command line of a process, printable and short."""
    try:
        process = psutil.Process(pid)
        text = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "its command cannot be seen"
    return "".join(char if char.isprintable() else "?" for char in text)[:COMMAND_LIMIT]
