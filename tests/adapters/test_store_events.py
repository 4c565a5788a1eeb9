"""The event history: numbers without gaps, whatever happens to the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmerd.adapters.disk import history
from stigmerd.adapters.disk.store import EventFiles, EventTail, Home, read_events
from stigmerd.core.event import Entry
from tests.adapters.disk import die_in_every_call, full_disk


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    home.prepare()
    return home


@pytest.fixture
def events(home: Home) -> Iterator[EventFiles]:
    events = EventFiles(home)
    yield events
    events.close()


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotation every few entries."""
    monkeypatch.setattr(history, "ROTATE_AT", 1000)


def entry(seq: int, message: str = "killed by SIGKILL") -> Entry:
    return Entry(
        seq=seq,
        at="2026-01-22T04:00:00.000Z",
        component="a",
        life=2,
        event="exited",
        reason="signal",
        message=message,
        details={"signal": "SIGKILL", "code": None},
    )


def path_of(home: Home) -> Path:
    return Path(home.state, "events.jsonl")


def seqs(entries: list[Entry]) -> list[int]:
    return [one.seq for one in entries]


def test_entry_comes_back_as_it_was_written(home: Home, events: EventFiles) -> None:
    events.append(entry(1))
    assert read_events(home) == [entry(1)] == events.read_since(0)
    assert path_of(home).read_text().startswith('{"seq":1,"at":"2026-01-22T04:00:00.000Z","component":"a","life":2')
    assert path_of(home).stat().st_mode & 0o777 == 0o600


def test_numbers_go_on_across_daemons(home: Home, events: EventFiles) -> None:
    assert events.last_seq == 0
    events.append(entry(1))
    events.append(entry(2))
    assert events.last_seq == 2
    assert EventFiles(home).last_seq == 2
    assert EventFiles(home, floor=40).last_seq == 40


@pytest.mark.usefixtures("small_files")
def test_rotation_skips_and_repeats_no_number_and_keeps_three_files(home: Home, events: EventFiles) -> None:
    for seq in range(1, 101):
        events.append(entry(seq))
    assert sorted(os.listdir(home.state)) == [f"events.jsonl{suffix}" for suffix in ("", ".1", ".2", ".3")]
    kept = seqs(read_events(home))
    assert kept == list(range(kept[0], 101))
    assert seqs(events.read_since(95)) == [96, 97, 98, 99, 100]
    assert all(Path(home.state, name).read_bytes().endswith(b"}\n") for name in os.listdir(home.state))


@pytest.mark.usefixtures("small_files")
def test_history_survives_a_crash_in_any_system_call(home: Home) -> None:
    written = 0

    def work() -> None:
        nonlocal written
        events = EventFiles(home)
        for _ in range(12):
            written = events.last_seq
            events.append(entry(events.last_seq + 1))

    for call in die_in_every_call(work, lambda: None):
        kept = seqs(read_events(home))
        assert kept == list(range(kept[0], kept[-1] + 1)) if kept else written == 0, call
        assert EventFiles(home).last_seq in {written, written + 1}, call


def test_torn_last_line_is_ignored_by_readers_and_cut_by_the_next_daemon(home: Home, events: EventFiles) -> None:
    events.append(entry(1))
    with open(path_of(home), "ab") as file:
        file.write(b'{"seq":2,"at":"20')
    assert seqs(read_events(home)) == [1]
    later = EventFiles(home)
    assert later.last_seq == 1
    later.append(entry(2))
    later.close()
    assert seqs(read_events(home)) == [1, 2]


def test_lines_that_are_no_entries_are_passed_over(home: Home, events: EventFiles) -> None:
    events.append(entry(1))
    with open(path_of(home), "ab") as file:
        file.write(b"\n\xff\n[]\n{}\n" + b"[" * 100_000 + b"\n" + b'{"seq": -4, "at": "", "event": ""}\n')
    assert EventFiles(home).last_seq == 1
    events.append(entry(2))
    assert seqs(read_events(home)) == [1, 2]


def test_what_a_full_disk_refuses_is_written_in_order_when_it_can_be(home: Home, events: EventFiles) -> None:
    events.append(entry(1))
    size = path_of(home).stat().st_size
    with full_disk(free=size + 20):
        for seq in (2, 3, 4):
            events.append(entry(seq))
        assert path_of(home).stat().st_size == size
        assert seqs(events.read_since(0)) == [1, 2, 3, 4]
        assert "3 events are kept in memory" in str(events.problem)
    events.flush()
    assert events.problem is None
    assert seqs(read_events(home)) == [1, 2, 3, 4]


def test_memory_for_a_full_disk_is_bounded_and_what_is_lost_is_counted(
    home: Home, events: EventFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "WAITING_LIMIT", 5)
    with full_disk():
        for seq in range(1, 9):
            events.append(entry(seq))
    events.flush()
    assert events.problem == "3 events were lost while the disk was full"
    assert seqs(read_events(home)) == [4, 5, 6, 7, 8]


def test_history_removed_from_outside_is_made_again(home: Home, events: EventFiles) -> None:
    events.append(entry(1))
    path_of(home).unlink()
    Path(home.state).rmdir()
    events.append(entry(2))
    assert seqs(read_events(home)) == [2]


def test_history_that_is_a_symbolic_link_is_not_followed(home: Home, events: EventFiles, tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    path_of(home).symlink_to(tmp_path / "victim")
    events.append(entry(1))
    assert (tmp_path / "victim").read_bytes() == b""
    assert "symbolic link" in str(events.problem)


def test_text_that_is_no_unicode_and_details_of_any_type_are_written(home: Home, events: EventFiles) -> None:
    events.append(entry(1, message="\udcff!"))
    events.append(Entry(seq=2, at="", component=None, life=None, event="suspended", details={"p": Path("/x")}))
    assert [one.message for one in read_events(home)] == ["?!", ""]
    assert read_events(home)[1].details == {"p": "/x"}


@pytest.mark.usefixtures("small_files")
def test_follower_misses_and_repeats_nothing_across_rotations(home: Home, events: EventFiles) -> None:
    seen: list[int] = []
    with EventTail(home) as tail:
        assert tail.poll() == []
        for seq in range(1, 201):
            events.append(entry(seq))
            if seq % 9 == 0:
                seen += seqs(tail.poll())
        seen += seqs(tail.poll())
    assert seen == list(range(1, 201))


def test_follower_begins_after_the_number_it_is_given(home: Home, events: EventFiles) -> None:
    for seq in (1, 2, 3):
        events.append(entry(seq))
    with EventTail(home, since=2) as tail:
        assert seqs(tail.poll()) == [3]
        with open(path_of(home), "ab") as file:
            file.write(b'{"seq":4')
        assert tail.poll() == []
