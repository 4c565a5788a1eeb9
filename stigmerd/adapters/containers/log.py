"""What a container writes, copied from the Docker Engine into the component's log: all of it, once.

The engine keeps the output itself, entry by entry, each with a time. A reading can break at any
entry (the engine restarts, the daemon dies); a :class:`Place` on disk says where to go on. Times
alone could not: entries may have equal ones, those of stdout and stderr overtake each other by
microseconds, and the clock may be set back. So a place counts entries.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from stigmerd.adapters.containers.client import EngineRefusedError, Reading
from stigmerd.adapters.containers.engine import DockerEngine
from stigmerd.engine.ports import EngineUnavailableError

if TYPE_CHECKING:
    from docker import APIClient

RETRY = 0.5
"""Seconds until a broken reading is begun anew, or a refused write tried again."""

PLACE_SIZE = 512
"""Bytes of the file that keeps a place: less than a page, so that one write is never seen half."""

MINUTE = len("2026-01-22T04:00")


class Place(NamedTuple):
    """Which entries are written: ``total`` of them, the youngest at ``newest``.

    Of the entries that are not older than the minute ``since`` they are the first ``skip``.
    Times are the engine's texts, all of one length, so that they compare as instants do.
    """

    since: str = ""
    skip: int = 0
    total: int = 0
    newest: str = ""


class Bookmark:
    """Tells new entries from written ones, through any number of readings of one container's output."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._to_skip = 0
        # The last two minutes that had entries in this reading, each with how many.
        self._earlier: tuple[str, int] = ("", 0)
        self._latest: tuple[str, int] = ("", 0)

    def begin(self, now: str) -> str:
        """Start a reading at the wall time ``now``: from which minute on, "" for all there is."""
        place = self.place
        if now[:MINUTE] < place.newest[:MINUTE]:
            # The clock was set back, and new entries may be older than ``since``.
            place = Place(skip=place.total, total=place.total, newest=place.newest)
        self.place = place
        self._to_skip = place.skip
        self._earlier = self._latest = (place.since, 0)
        return place.since

    def take(self, at: str) -> Place | None:
        """Take in the next entry of the reading: None if it is written, else the place once it is."""
        self._count(at[:MINUTE])
        # One younger than all that is written is new: the engine has dropped old entries from its log.
        if self._to_skip and at <= self.place.newest:
            self._to_skip -= 1
            return None
        self._to_skip = 0
        total, newest = self.place.total + 1, max(at, self.place.newest)
        since, count = self._earlier
        skip = count + self._latest[1] if since else total
        return Place(since=since, skip=skip, total=total, newest=newest)

    def _count(self, minute: str) -> None:
        if minute > self._latest[0]:
            self._earlier, self._latest = self._latest, (minute, 1)
        elif minute == self._latest[0]:
            self._latest = (minute, self._latest[1] + 1)
        elif minute == self._earlier[0]:
            self._earlier = (minute, self._earlier[1] + 1)
        else:
            # The clock was set back while we read: for now only the total counts right.
            self._earlier = ("", 0)


class PlaceFile:
    """A place on disk, such that a SIGKILL between an entry and its place neither loses nor doubles.

    Before an entry is appended, the places before and after it are noted with the log's size;
    whether the log has grown since then tells which one holds. It has to survive the daemon, not
    the machine: after a power loss the container is dead, and nothing is synced here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def load(self, log_size: int) -> Place:
        """The place that holds for a log of this size; the very start where none was kept."""
        try:
            kept = json.loads(self._path.read_bytes())
            place = Place(*(kept["next"] if kept["next"] and kept["size"] != log_size else kept["done"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Place()
        return place if tuple(map(type, place)) == (str, int, int, str) else Place()

    def open(self) -> None:
        """Make the file, where there is none, and open it for :meth:`keep`."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def keep(self, done: Place, following: Place | None = None, size: int = 0) -> None:
        """Note that ``done`` holds, and ``following`` once the log is not of ``size`` any more."""
        # An object's text, of short lists: this is written twice for every entry.
        following_text = json.dumps(following) if following else "null"
        kept = f'{{"done": {json.dumps(done)}, "next": {following_text}, "size": {size}}}'
        os.pwrite(self._fd, kept.ljust(PLACE_SIZE).encode(), 0)

    def remove(self) -> None:
        """Forget the place: the container is removed."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


class Sink:
    """The component's log and the place in it, as one thread writes them.

    What the disk refuses is tried again until it is taken or ``closed`` is set: meanwhile the
    engine keeps the output. ``complain`` is told why, and "" once it goes on.
    """

    def __init__(
        self,
        open_log: Callable[[], int],
        places: PlaceFile,
        closed: threading.Event,
        complain: Callable[[str], None],
    ) -> None:
        self._open_log = open_log
        self._places = places
        self._closed = closed
        self._complain = complain
        self._fd = -1

    def open(self) -> Place | None:
        """Open both, and tell the place; None when closed before that could be done."""
        if not self._insist(self._open):
            return None
        return self._places.load(os.fstat(self._fd).st_size)

    def append(self, entry: bytes, before: Place, after: Place) -> bool:
        """Append one entry and note the place ``after`` it; False when closed before that was done."""
        rest = memoryview(entry)

        def write() -> None:
            nonlocal rest
            log = os.fstat(self._fd)
            if log.st_nlink == 0:  # deleted from outside
                self._open()
                log = os.fstat(self._fd)
            self._places.keep(before, after, log.st_size)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._places.keep(after)

        return self._insist(write)

    def close(self) -> None:
        """Close both."""
        self._places.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self.close()
        self._places.open()
        self._fd = self._open_log()

    def _insist(self, action: Callable[[], None]) -> bool:
        failed = False
        while not self._closed.is_set():
            try:
                action()
            except OSError as exc:
                failed = True
                self._complain(f"its output cannot be written to its log: {exc.strerror or exc}")
                self._closed.wait(RETRY)
            else:
                if failed:
                    self._complain("")
                return True
        return False


class ContainerLog:
    """Copies one container's output. :meth:`run` returns when the container is over and all is copied."""

    def __init__(self, engine: DockerEngine, container_id: str, *, open_log: Callable[[], int], place: Path) -> None:
        self.trouble = ""
        """One sentence about why output does not reach the log now, or ""."""
        self.copied = 0
        """Entries that this daemon has copied so far."""
        self._engine = engine
        self._container_id = container_id
        self._open_log = open_log
        self._places = PlaceFile(place)

    def forget(self) -> None:
        """Drop what was kept for a later reading: the container is removed."""
        self._places.remove()

    async def run(self) -> None:
        """Copy until the end of the output, through breaks of the stream and of the engine."""
        limiter = trio.CapacityLimiter(1)
        idle = 0
        while True:
            await self._engine.wait_up()
            try:
                running, copied = await self._read(limiter)
            except EngineUnavailableError:
                running, copied, idle = True, 0, 1
            except EngineRefusedError as exc:
                if exc.is_missing:
                    return
                self._complain(f"its output cannot be read: {exc}")
                running, copied, idle = True, 0, 1
            # The SDK tells no end from a break: the end is where a reading brings nothing new.
            if not running and not copied:
                return
            idle = 0 if copied else idle + 1
            if idle > 1:
                await trio.sleep(RETRY)

    async def _read(self, limiter: trio.CapacityLimiter) -> tuple[bool, int]:
        """Read to the end: whether the container ran before that, and how many entries were new."""
        inspected = await self._engine.call(lambda api: api.inspect_container(self._container_id))
        running = bool(inspected["State"]["Running"])
        return running, await self._engine.read(partial(self._copy, running), limiter)

    def _complain(self, trouble: str) -> None:
        self.trouble = trouble

    # In the thread.

    def _copy(self, follow: bool, api: APIClient, reading: Reading) -> int:
        """Append what is new to the log, and tell how many entries that was."""
        sink = Sink(self._open_log, self._places, reading.closed, self._complain)
        try:
            place = sink.open()
            return self._drain(api, follow, reading, sink, place) if place else 0
        finally:
            sink.close()

    def _drain(self, api: APIClient, follow: bool, reading: Reading, sink: Sink, place: Place) -> int:
        bookmark = Bookmark(place)
        minute = bookmark.begin(datetime.now(UTC).isoformat())
        since = int(datetime.fromisoformat(f"{minute}:00+00:00").timestamp()) if minute else None
        stream = api.logs(self._container_id, stream=True, follow=follow, timestamps=True, since=since)
        for frame in reading.items(stream):
            at, _, entry = frame.partition(b" ")
            after = bookmark.take(at.decode("ascii", "replace"))
            if after is not None:
                if not sink.append(entry, bookmark.place, after):
                    break
                bookmark.place = after
                self.copied += 1
        return bookmark.place.total - place.total
