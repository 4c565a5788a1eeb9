"""Reading logs from behind and following them: no line missed, none twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmerd.adapters.disk.output import LogFiles, LogTail
from stigmerd.adapters.disk.store import Home
from stigmerd.adapters.disk.tail import tail_lines
from stigmerd.core.spec import LogPolicy
from tests.adapters.disk import joined, require_collapse

SMALL = LogPolicy(max_size=8192, keep=100)


@pytest.fixture(params=[True, False], ids=["collapse", "truncate"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> LogFiles:
    """Logs that are rotated at 8 KiB, one way or the other."""
    home = Home.at(tmp_path / "home")
    home.prepare()
    if request.param:
        require_collapse(Path(home.logs))
    logs = LogFiles(home, collapses=request.param)
    logs.rule("a", SMALL)
    return logs


@pytest.fixture
def path(logs: LogFiles) -> str:
    return logs.path("a")


class Writer:
    """Writes numbered lines, as a component does: through one descriptor that stays open."""

    def __init__(self, logs: LogFiles) -> None:
        self.count = 0
        self._fd = logs.open_for_child("a")

    def write(self, count: int) -> None:
        for _ in range(count):
            os.write(self._fd, b"line %06d %s\n" % (self.count, b"x" * 30))
            self.count += 1

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def writer(logs: LogFiles) -> Iterator[Writer]:
    writer = Writer(logs)
    yield writer
    writer.close()


def numbers(lines: list[bytes]) -> list[int]:
    assert all(line.endswith(b"\n") for line in lines)
    return [int(line.split()[1]) for line in lines]


def drain(tail: LogTail) -> list[bytes]:
    lines: list[bytes] = []
    while more := tail.poll():
        lines += more
    return lines


@pytest.mark.parametrize("count", [1, 2, 50, 149, 150, 151, 900, 2000])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "packed"])
def test_last_lines_are_found_across_rotated_files(
    logs: LogFiles, writer: Writer, path: str, count: int, compress: bool
) -> None:
    logs.rule("a", LogPolicy(max_size=8192, keep=100, compress=compress))
    for _ in range(10):
        writer.write(100)
        logs.rotate_due()
    assert os.path.exists(f"{path}.3.gz" if compress else f"{path}.3")
    lines = tail_lines(path, count)
    assert numbers(lines) == list(range(max(1000 - count, 0), 1000))


def test_last_line_without_its_end_counts_as_a_line(logs: LogFiles, path: str) -> None:
    Path(path).write_bytes(b"one\ntwo\nthree")
    assert tail_lines(path, 2) == [b"two\n", b"three"]
    assert tail_lines(path, 0) == []
    assert tail_lines(f"{path}-missing", 5) == []


def test_follower_begins_with_the_last_lines(writer: Writer, path: str) -> None:
    writer.write(10)
    with LogTail(path, last=3) as tail:
        assert numbers(drain(tail)) == [7, 8, 9]
        writer.write(2)
        assert numbers(drain(tail)) == [10, 11]


def test_reader_knows_when_it_has_read_all_that_was_there_however_fast_the_log_grows(
    writer: Writer, path: str
) -> None:
    writer.write(2000)
    with LogTail(path, last=None) as tail:
        polls = 0
        while not tail.is_caught_up:
            tail.poll()
            writer.write(2000)
            polls += 1
    assert 0 < polls < 10


def test_follower_waits_for_the_end_of_a_line_but_not_for_ever(logs: LogFiles, path: str) -> None:
    with LogTail(path) as tail:
        assert tail.poll() == []
        fd = logs.open_for_child("a")
        os.write(fd, b"half")
        assert tail.poll() == []
        os.write(fd, b" and half\nprompt> ")
        assert drain(tail) == [b"half and half\n"]
        assert tail.flush() == [b"prompt> "]
        os.write(fd, b"z" * 300_000)
        assert sum(map(len, drain(tail) + tail.flush())) == 300_000
        os.close(fd)


@pytest.mark.parametrize("lag", [1, 3, 20])
def test_follower_misses_and_repeats_nothing_across_rotations(
    logs: LogFiles, writer: Writer, path: str, lag: int
) -> None:
    lines: list[bytes] = []
    with LogTail(path) as tail:
        for turn in range(60):
            writer.write(37)
            logs.rotate_due()
            if turn % lag == 0:
                lines += drain(tail)
        lines += drain(tail)
        assert tail.missed == 0
    assert numbers(lines) == list(range(writer.count))


def test_follower_that_was_away_too_long_counts_what_it_missed(logs: LogFiles, writer: Writer, path: str) -> None:
    logs.rule("a", LogPolicy(max_size=8192, keep=1))
    with LogTail(path) as tail:
        for _ in range(20):
            writer.write(200)
            logs.rotate_due()
        assert b"".join(drain(tail)) == joined(path)
        assert tail.missed > 100_000


def test_follower_sees_all_when_the_log_is_renamed_and_begun_anew(logs: LogFiles, writer: Writer, path: str) -> None:
    writer.write(300)
    logs.rotate_due()
    with LogTail(path, last=None) as tail:
        lines = drain(tail)
        writer.write(5)
        os.rename(path, f"{path}.old")
        writer.write(5)
        lines += drain(tail)
        later = Writer(logs)
        later.count = writer.count + 5
        later.write(5)
        writer.write(5)  # the component that was there before still writes to the old file
        lines += drain(tail)
        later.close()
    assert sorted(numbers(lines)) == list(range(320))


def test_follower_goes_on_when_the_log_was_removed(logs: LogFiles, writer: Writer, path: str) -> None:
    with LogTail(path) as tail:
        writer.write(5)
        os.unlink(path)
        lines = drain(tail)
        logs.note("a", "Started a")
        lines += drain(tail)
    assert numbers(lines[:5]) == [0, 1, 2, 3, 4]
    assert lines[5].endswith(b"Started a\n")


@pytest.mark.parametrize("after", [2, 10, 50])
def test_follower_begins_anew_when_the_log_was_truncated(writer: Writer, path: str, after: int) -> None:
    with LogTail(path) as tail:
        writer.write(10)
        lines = drain(tail)
        os.truncate(path, 0)
        writer.write(after)
        lines += drain(tail)
    assert numbers(lines) == list(range(10 + after))


def test_follower_does_not_follow_a_symbolic_link(logs: LogFiles, path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret\n")
    os.symlink(tmp_path / "secret", path)
    assert tail_lines(path, 5) == []


def test_damaged_packed_file_ends_where_the_damage_is(logs: LogFiles, path: str) -> None:
    Path(f"{path}.1.gz").write_bytes(b"\x1f\x8b no gzip at all")
    Path(path).write_bytes(b"one\n")
    with LogTail(path, last=None) as tail:
        assert drain(tail) == [b"one\n"]
    assert tail_lines(path, 5) == [b"one\n"]
