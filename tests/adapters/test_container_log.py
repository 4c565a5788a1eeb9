"""What a container writes is in its component's log: all of it, once."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.adapters.containers.log import MINUTE, Bookmark, Place, PlaceFile, Sink
from stigmerd.core.record import Identity
from tests.adapters.containers import Yard, container_id, open_yard, order_of, until
from tests.docker import SDK_LEAVES_SOCKETS, OwnEngine, docker_host, own_engine, restartable

__all__ = ["docker_host", "own_engine", "restartable"]

NOW = "2026-01-22T05:00:00.000000000Z"


@pytest.fixture
async def yard(docker_host: str, tmp_path: Path) -> AsyncIterator[Yard]:
    async with open_yard(docker_host, tmp_path) as yard:
        yield yard


# The place.


def at(tenths: int) -> str:
    """The engine's text of an instant, so many tenths of a second after four o'clock."""
    seconds, tenth = divmod(tenths, 10)
    return f"2026-01-22T04:{seconds // 60:02}:{seconds % 60:02}.{tenth}00000000Z"


def read(place: Place, entries: list[str], until_entry: int | None = None, now: str = NOW) -> tuple[Place, list[int]]:
    """One reading that breaks before ``until_entry``: the place after it, and which entries were new."""
    bookmark = Bookmark(place)
    since = bookmark.begin(now)
    new = []
    for index, entry in enumerate(entries[:until_entry]):
        if since and entry[:MINUTE] < since:
            continue  # as the engine leaves out
        after = bookmark.take(entry)
        if after is not None:
            new.append(index)
            bookmark.place = after
    return bookmark.place, new


@given(
    steps=st.lists(st.sampled_from([-1, 0, 0, 1, 7, 300, 900]), max_size=60),
    breaks=st.lists(st.integers(0, 60), max_size=6).map(sorted),
)
def test_every_entry_is_new_once_however_the_readings_break(steps: list[int], breaks: list[int]) -> None:
    # Times that go on, stand still, overtake each other and leap over minutes.
    clock, entries = 1, []
    for step in steps:
        clock = max(0, clock + step)
        entries.append(at(clock))
    place, seen = Place(), list[int]()
    for until_entry in [*breaks, None]:
        place, new = read(place, entries, until_entry)
        seen += new
    assert seen == list(range(len(entries)))


def test_entries_after_the_clock_was_set_back_are_new() -> None:
    before = [at(18000 + tenths) for tenths in range(0, 2000, 100)]
    place, _ = read(Place(), before)
    after = [at(tenths) for tenths in range(0, 1000, 100)]
    place, new = read(place, before + after, now=after[-1])
    assert new == list(range(len(before), len(before) + len(after)))
    assert read(place, before + after, now=after[-1])[1] == []


def test_entries_that_the_engine_has_dropped_are_not_counted_against_new_ones() -> None:
    entries = [at(tenths) for tenths in range(50)]
    place, _ = read(Place(), entries[:30])
    assert read(place, entries[20:])[1] == list(range(10, 30))


def test_a_long_output_is_not_read_from_its_beginning_again() -> None:
    entries = [at(tenths) for tenths in range(0, 3600, 100)]
    place, _ = read(Place(), entries)
    assert place.since >= entries[-1][:MINUTE].replace("05", "04")
    assert place.skip < 20


# The place and the log on disk.


def sink_of(folder: Path, closed: threading.Event, troubles: list[str]) -> Sink:
    def open_log() -> int:
        return os.open(folder / "c.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    return Sink(open_log, PlaceFile(folder / "places" / "c"), closed, troubles.append)


def test_place_that_was_never_kept_is_the_start(tmp_path: Path) -> None:
    places = PlaceFile(tmp_path / "c")
    assert places.load(0) == Place()
    for content in ('{"done"', "[]", '{"done": [1, 2], "next": null}', '{"done": ["", "1", 1, ""], "next": null}'):
        (tmp_path / "c").write_text(content)
        assert places.load(0) == Place()


def test_log_that_has_grown_tells_that_the_entry_is_written(tmp_path: Path) -> None:
    before, after = Place(skip=1, total=1, newest=at(1)), Place(skip=2, total=2, newest=at(2))
    places = PlaceFile(tmp_path / "c")
    places.open()
    places.keep(before, after, size=100)
    places.close()
    assert places.load(100) == before
    assert places.load(107) == after


def test_deleted_log_is_made_again(tmp_path: Path) -> None:
    sink = sink_of(tmp_path, threading.Event(), [])
    place = sink.open()
    assert place == Place()
    assert sink.append(b"one\n", place, place)
    (tmp_path / "c.log").unlink()
    assert sink.append(b"two\n", place, place)
    sink.close()
    assert (tmp_path / "c.log").read_text() == "two\n"


def test_refused_write_is_told_and_tried_until_it_is_taken(tmp_path: Path) -> None:
    troubles: list[str] = []
    refusals = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def open_log() -> int:
        if refusals:
            raise refusals.pop()
        return os.open(tmp_path / "c.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    sink = Sink(open_log, PlaceFile(tmp_path / "c"), threading.Event(), troubles.append)
    place = sink.open()
    assert place is not None
    assert troubles == ["its output cannot be written to its log: No space left on device", ""]
    assert sink.append(b"x\n", place, place)
    sink.close()


def test_closed_sink_gives_up(tmp_path: Path) -> None:
    closed = threading.Event()
    closed.set()
    sink = sink_of(tmp_path, closed, [])
    assert sink.open() is None
    sink.close()


# With an engine.


@pytest.mark.docker
async def test_stdout_and_stderr_are_in_the_log_when_the_life_is_released(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "echo out; echo err >&2; echo -n end")
    await life.wait_exit()
    await life.release()
    assert sorted(yard.log().split("\n")) == ["end", "err", "out"]
    assert list((yard.folder / "places").iterdir()) == []


@pytest.mark.docker
async def test_long_lines_stay_whole(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo short")
    await life.wait_exit()
    await life.release()
    assert yard.log() == "x" * 100000 + "\nshort\n"


@pytest.mark.docker
async def test_output_of_a_busy_container_is_complete(yard: Yard) -> None:
    life = await yard.launch("/bin/seq", "1", "50000")
    with trio.fail_after(30):
        await life.wait_exit()
        await life.release()
    assert yard.log() == "".join(f"{number}\n" for number in range(1, 50001))


DAEMON = """
import os, sys, signal, msgspec, trio
from pathlib import Path
from stigmerd.core.record import Identity
from tests.adapters.containers import make_launcher, order_of

async def main(host, folder, name, *command):
    kept = folder / "identity"
    async with trio.open_nursery() as tasks:
        _, launcher = make_launcher(host, folder)
        await tasks.start(launcher.serve)
        order = order_of(name, *command, nonce="1-daemon")
        if kept.exists():
            life = await launcher.adopt(order, msgspec.json.decode(kept.read_bytes(), type=Identity))
        else:
            life = await launcher.launch(order)
            kept.write_bytes(msgspec.json.encode(life.identity))
        await trio.sleep(0.4)
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main, sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
"""

COUNT = "i=0; while :; do i=$((i + 1)); echo $i; [ $((i % 50)) = 0 ] && sleep 0.05; done"


def is_counting_from_one(log: str) -> bool:
    lines = log.split("\n")[:-1]
    return lines == [str(number) for number in range(1, len(lines) + 1)]


@pytest.mark.docker
async def test_output_goes_on_where_a_killed_daemon_stopped(yard: Yard) -> None:
    command = ("/bin/sh", "-c", COUNT)
    for _ in range(3):
        lines = yard.log().count("\n")
        words = [sys.executable, "-c", DAEMON, yard.host, str(yard.folder), yard.name, *command]
        await trio.run_process(words, check=False)
        assert yard.log().count("\n") > lines
    identity = msgspec.json.decode((yard.folder / "identity").read_bytes(), type=Identity)
    life = await yard.launcher.adopt(order_of(yard.name, *command, nonce="1-daemon"), identity)
    assert life is not None
    await life.kill()
    with trio.fail_after(10):
        await life.release()
    assert is_counting_from_one(yard.log())


@pytest.mark.docker
@SDK_LEAVES_SOCKETS
async def test_output_goes_on_when_the_engine_was_restarted(restartable: OwnEngine, tmp_path: Path) -> None:
    async with open_yard(restartable.host, tmp_path) as yard:
        life = await yard.launch("/bin/sh", "-c", COUNT)
        await until(lambda: yard.log().count("\n") > 100)
        await trio.to_thread.run_sync(restartable.stop)
        lines = yard.log().count("\n")
        await trio.to_thread.run_sync(restartable.start)
        await until(lambda: yard.log().count("\n") > lines + 100, limit=20)
        assert life.is_alive()
        assert len(yard.ours()) == 1
        await life.kill()
        written = yard.api.logs(container_id(life)).decode()
        with trio.fail_after(10):
            await life.release()
        assert yard.log() == written
