"""The logs: only ever a regular file of ours, with the daemon's lines on lines of their own."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stigmerd.adapters.disk.output import LogFiles, LogRefusedError
from stigmerd.adapters.disk.store import Home
from tests.adapters.disk import full_disk


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    home.prepare()
    return home


@pytest.fixture
def logs(home: Home) -> LogFiles:
    return LogFiles(home)


def write(logs: LogFiles, component: str, text: bytes) -> None:
    fd = logs.open_for_child(component)
    os.write(fd, text)
    os.close(fd)


def content(logs: LogFiles, component: str = "a") -> bytes:
    return Path(logs.path(component)).read_bytes()


def test_log_is_private_appended_to_and_not_inherited_by_accident(logs: LogFiles) -> None:
    write(logs, "a", b"one\n")
    write(logs, "a", b"two\n")
    assert content(logs) == b"one\ntwo\n"
    fd = logs.open_for_child("a")
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    assert flags & os.O_APPEND
    assert not flags & os.O_NONBLOCK
    assert not os.get_inheritable(fd)
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    os.close(fd)


def test_log_that_others_may_read_is_made_private(logs: LogFiles) -> None:
    write(logs, "a", b"")
    os.chmod(logs.path("a"), 0o644)
    write(logs, "a", b"")
    assert os.stat(logs.path("a")).st_mode & 0o777 == 0o600


REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "symlink": (lambda log, other: log.symlink_to(other), "is a symbolic link"),
    "dangling symlink": (lambda log, other: log.symlink_to(f"{other}-missing"), "is a symbolic link"),
    "fifo": (lambda log, _: os.mkfifo(log), "is a FIFO"),
    "folder": (lambda log, _: log.mkdir(), "is a folder"),
    "hard link": (lambda log, other: os.link(other, log), "has another name too"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_log_is_refused_with_its_path_and_not_written_to(
    logs: LogFiles, tmp_path: Path, make: Callable[[Path, Path], object], reason: str
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    make(Path(logs.path("a")), other)
    with pytest.raises(LogRefusedError, match=re.escape(logs.path("a")) + " " + reason) as caught:
        logs.open_for_child("a")
    assert caught.value.path == logs.path("a")
    logs.note("a", "Started a")
    logs.rotate_due()
    assert other.read_bytes() == b"precious"
    assert not os.path.lexists(f"{other}-missing")
    assert reason in logs.problems[0]


def test_problem_is_over_once_the_log_can_be_written(logs: LogFiles) -> None:
    os.mkfifo(logs.path("a"))
    logs.note("a", "Started a")
    assert logs.problems
    os.unlink(logs.path("a"))
    logs.note("a", "Started a")
    assert not logs.problems


def test_note_is_one_line_with_time_and_name(logs: LogFiles) -> None:
    logs.note("a", "Restarted a\n(attempt 1/10)")
    stamp = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(stamp + rb" stigmerd\[a\]: Restarted a \(attempt 1/10\)\n", content(logs))


def test_note_stands_on_a_line_of_its_own(logs: LogFiles) -> None:
    write(logs, "a", b"no newline")
    logs.note("a", "Exited")
    logs.note("a", "Restarted")
    lines = content(logs).split(b"\n")
    assert lines[0] == b"no newline"
    assert [line.endswith((b": Exited", b": Restarted")) for line in lines[1:]] == [True, True, False]


def test_note_that_is_no_unicode_is_written_all_the_same(logs: LogFiles) -> None:
    logs.note("a", "bad \udcff")
    assert content(logs).endswith(b"bad \\udcff\n")


def test_folder_that_was_removed_is_made_again(logs: LogFiles, home: Home) -> None:
    os.rmdir(home.logs)
    write(logs, "a", b"one\n")
    assert content(logs) == b"one\n"
    assert os.stat(home.logs).st_mode & 0o777 == 0o700


def test_log_that_was_renamed_or_removed_is_begun_anew(logs: LogFiles) -> None:
    write(logs, "a", b"one\n")
    os.rename(logs.path("a"), logs.path("a") + ".old")
    logs.note("a", "Started")
    assert content(logs).endswith(b": Started\n")
    os.unlink(logs.path("a"))
    write(logs, "a", b"two\n")
    assert content(logs) == b"two\n"


def test_full_disk_is_a_problem_and_no_exception(logs: LogFiles) -> None:
    with full_disk():
        logs.note("a", "Started a")
    assert "cannot be written" in logs.problems[0]


def test_log_in_a_very_long_path_works(tmp_path: Path) -> None:
    home = Home.at(tmp_path.joinpath(*["d" * 200] * 8))
    home.prepare()
    logs = LogFiles(home)
    logs.note("a", "Started")
    assert content(logs).endswith(b"Started\n")


def test_lines_that_a_full_disk_refused_are_written_once_in_order_and_the_problem_is_over(logs: LogFiles) -> None:
    with full_disk():
        logs.note("a", "one")
        logs.note("a", "two")
        logs.rotate_due()
    assert content(logs) == b""
    logs.rotate_due()
    logs.rotate_due()
    assert [line.rpartition(b" ")[2] for line in content(logs).splitlines()] == [b"one", b"two"]
    assert logs.problems == ()


def test_lines_that_wait_for_a_log_are_bounded(logs: LogFiles) -> None:
    with full_disk():
        for number in range(1000):
            logs.note("a", str(number))
    logs.note("a", "last")
    numbers = [line.rpartition(b" ")[2] for line in content(logs).splitlines()]
    assert numbers == [*(str(number).encode() for number in range(900, 1000)), b"last"]
