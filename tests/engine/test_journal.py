"""What subscribers are told: everything, in order, once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from stigmerd.core.event import Entry
from stigmerd.engine.journal import FEED_LIMIT, Feed, Journal
from tests.engine.fakes import FakeClock, FakeEvents, look_at_once


@pytest.fixture
def journal() -> Journal:
    return Journal(FakeEvents(), FakeClock(), look_at_once)


async def take(feed: Feed, count: int) -> list[int]:
    """The numbers of the next entries, none of which were missed."""
    told = [await feed.receive() for _ in range(count)]
    assert [missed for missed, _ in told if missed] == []
    return [entry.seq for _, entry in told]


async def test_what_is_written_while_the_history_is_read_follows_it_without_a_gap_and_once(journal: Journal) -> None:
    for _ in range(3):
        journal.record("running", component="web")

    async def read(until: int) -> Sequence[Entry]:
        for _ in range(2 * FEED_LIMIT):  # more than would wait for a reader that is too slow
            journal.record("running", component="web")
        await trio.lowlevel.checkpoint()
        return journal.read(1, until)

    with journal.watch(read=read) as feed:
        assert await take(feed, 2 + 2 * FEED_LIMIT) == list(range(2, 4 + 2 * FEED_LIMIT))
        journal.record("ready", component="web")
        assert await take(feed, 1) == [4 + 2 * FEED_LIMIT]


async def test_subscriber_to_some_is_told_of_those_alone_also_from_the_history(journal: Journal) -> None:
    async def read(until: int) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        return journal.read(0, until)

    for name in ("web", "other", "web"):
        journal.record("running", component=name)
    with journal.watch(["web"], read) as feed:
        journal.record("ready", component="other")
        journal.record("ready", component="web")
        assert await take(feed, 3) == [1, 3, 5]


async def test_reader_that_is_too_slow_is_told_how_many_it_missed(journal: Journal) -> None:
    with journal.watch() as feed:
        for _ in range(FEED_LIMIT + 2):
            journal.record("running", component="web")
        missed, entry = await feed.receive()
        assert (missed, entry.seq) == (2, 3)
