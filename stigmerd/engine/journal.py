"""The numbered events: written down first, then handed to whoever subscribed."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import trio

from stigmerd.core.event import Entry
from stigmerd.core.instant import rfc3339
from stigmerd.engine.ports import Clock, EventStore, Look

FEED_LIMIT = 1000
"""Entries that wait for one slow subscriber before the oldest are missed."""


Backlog = Callable[[], Awaitable[Sequence[Entry]]]
"""Reads what a subscriber asked for of the history, oldest first. It may take its time, and bounds it."""


class Feed:
    """One subscriber's queue: bounded, so that a reader that does not read costs a fixed amount.

    A ``backlog`` is read when the first entry is asked for, and comes before what has arrived until then.
    """

    def __init__(self, names: frozenset[str], backlog: Backlog | None = None) -> None:
        self._names = names
        self._backlog = backlog
        self._entries: deque[Entry] = deque()
        self._limit = FEED_LIMIT
        self._missed = 0
        self._arrived = trio.Event()

    def put(self, entry: Entry) -> None:
        """Queue one entry, at the cost of the oldest where the reader is too slow."""
        if not self._concerns(entry):
            return
        if self._backlog is None and len(self._entries) >= self._limit:
            self._entries.popleft()
            self._missed += 1
        self._entries.append(entry)
        self._arrived.set()

    async def receive(self) -> tuple[int, Entry]:
        """The next entry, after how many that were missed."""
        await trio.lowlevel.checkpoint()
        if self._backlog is not None:
            await self._read_backlog(self._backlog)
        await self.wait_arrival()
        missed, self._missed = self._missed, 0
        return missed, self._entries.popleft()

    def give_up(self) -> int:
        """Drop what still waits, and tell how many entries that and what was missed before it are."""
        count = self._missed + len(self.take_rest())
        self._missed = 0
        return count

    async def wait_arrival(self) -> None:
        """Wait until there is an entry to take."""
        while not self._entries:
            self._arrived = trio.Event()
            await self._arrived.wait()

    def take(self, limit: int) -> tuple[Entry, ...]:
        """What is there, up to ``limit`` entries, without waiting for more."""
        return tuple(self._entries.popleft() for _ in range(min(limit, len(self._entries))))

    def take_rest(self) -> tuple[Entry, ...]:
        """All that still waits, without waiting for more."""
        return self.take(len(self._entries))

    async def _read_backlog(self, backlog: Backlog) -> None:
        entries = [entry for entry in await backlog() if self._concerns(entry)]
        self._entries.extendleft(reversed(entries))
        # Neither the history that a reader asked for is held against it, nor what came while that was read.
        self._limit = len(self._entries) + FEED_LIMIT
        self._backlog = None

    def _concerns(self, entry: Entry) -> bool:
        return not self._names or entry.component in self._names


class Journal:
    """Numbers what happens. ``seq`` has no gaps and goes on across daemons.

    An entry is in the file before :meth:`record` returns; the caller publishes the state that the
    entry announces only then.
    """

    def __init__(self, store: EventStore, clock: Clock, look: Look) -> None:
        self._store = store
        self._clock = clock
        self._look = look
        self._feeds: list[Feed] = []
        self._former: dict[str, dict[str, Entry]] | None = None

    def record(
        self,
        event: str,
        *,
        component: str | None = None,
        life: int | None = None,
        reason: str | None = None,
        message: str = "",
        **details: object,
    ) -> Entry:
        """Write one entry and hand it to the subscribers."""
        entry = Entry(
            seq=self._store.last_seq + 1,
            at=rfc3339(self._clock.wall()),
            component=component,
            life=life,
            event=event,
            reason=reason,
            message=message,
            details=details,
        )
        self._store.append(entry)
        for feed in self._feeds:
            feed.put(entry)
        return entry

    def read(self, since: int, until: int) -> list[Entry]:
        """What the history still holds above ``since``, up to ``until``, oldest first. Takes seconds where there
        is much: to be called in a thread, where there is a loop that others wait for."""
        return [entry for entry in self._store.read_since(since) if entry.seq <= until]

    def history(self, component: str) -> list[Entry]:
        """What the history still holds about one component, oldest first. To be called like :meth:`read`."""
        return [entry for entry in self._store.read_since(0) if entry.component == component]

    async def former(self, component: str, life: int) -> Mapping[str, Entry]:
        """What an earlier daemon wrote of a component's last life, by event. The files are read once, at the
        first question: after a crash there may be a thousand."""
        if self._former is None:
            await self._look(self._recall)
        entries = (self._former or {}).get(component, {})
        return {event: entry for event, entry in entries.items() if entry.life == life}

    def _recall(self) -> None:
        if self._former is None:
            self._former = _last_lives(self._store.read_since(0))

    @contextmanager
    def watch(
        self, names: Sequence[str] = (), read: Callable[[int], Awaitable[Sequence[Entry]]] | None = None
    ) -> Iterator[Feed]:
        """Subscribe to new entries; before them, what ``read`` gives of the history up to the number it is told."""
        backlog = partial(read, self._store.last_seq) if read is not None else None
        feed = Feed(frozenset(names), backlog)
        self._feeds.append(feed)
        try:
            yield feed
        finally:
            self._feeds.remove(feed)


def _last_lives(entries: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
    """Of each component's last life the newest entry of each event."""
    found: dict[str, dict[str, Entry]] = {}
    lives: dict[str, int] = {}
    for entry in entries:
        if entry.component is None or entry.life is None:
            continue
        if lives.get(entry.component) != entry.life:
            lives[entry.component] = entry.life
            found[entry.component] = {}
        found[entry.component][entry.event] = entry
    return found
