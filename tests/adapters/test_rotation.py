"""Rotation under a writer: no byte lost or doubled, whoever dies when."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

from stigmerd.adapters.disk.ledger import rotated_files
from stigmerd.adapters.disk.output import LogFiles, LogTail
from stigmerd.adapters.disk.rotation import Cut, plan_collapse, plan_truncation
from stigmerd.adapters.disk.store import Home
from stigmerd.core.spec import LogPolicy
from tests.adapters.disk import die_in_every_call, full_disk, in_thread, joined, require_collapse, start_python

MIB = 1024 * 1024
WRITER = """
import os, sys, time
lines, pause = int(sys.argv[1]), float(sys.argv[2])
for number in range(lines):
    os.write(1, b"line %07d xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\n" % number)
    if pause and number % 200 == 0:
        time.sleep(pause)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    home.prepare()
    return home


@pytest.fixture
def collapsing(home: Home) -> LogFiles:
    require_collapse(Path(home.logs))
    return LogFiles(home, collapses=True)


@pytest.fixture
def truncating(home: Home) -> LogFiles:
    return LogFiles(home, collapses=False)


def start_writer(logs: LogFiles, lines: int, pause: float = 0.0) -> subprocess.Popen[bytes]:
    """Start a writer of so many lines, that pauses so many seconds after every 200 of them."""
    fd = logs.open_for_child("a")
    try:
        return start_python(WRITER, lines, str(pause), stdout=fd)
    finally:
        os.close(fd)


def read_lines(tail: LogTail) -> list[bytes]:
    lines: list[bytes] = []
    while more := tail.poll():
        lines += more
    return lines


def numbers(output: bytes) -> list[int]:
    return [int(line[5:12]) for line in output.splitlines() if line[:5] == b"line " and len(line) == 43]


def test_cut_is_of_whole_blocks_and_never_reaches_the_end() -> None:
    policy = LogPolicy(max_size=10_000, keep=3)
    assert plan_collapse(10_000, 4096, policy) is None
    assert plan_collapse(10_001, 4096, policy) == Cut(dropped=0, kept=8192)
    assert plan_collapse(8192 * 4 + 1, 4096, policy) == Cut(dropped=8192, kept=8192)
    assert plan_collapse(12_288, 4096, LogPolicy(max_size=10_000, keep=0)) == Cut(dropped=8192, kept=0)
    assert plan_collapse(4096, 4096, LogPolicy(max_size=10)) is None


def test_truncation_keeps_as_much_as_may_be_kept() -> None:
    policy = LogPolicy(max_size=10_000, keep=3)
    assert plan_truncation(10_000, policy) is None
    assert plan_truncation(10_001, policy) == Cut(dropped=0, kept=10_001)
    assert plan_truncation(50_000, policy) == Cut(dropped=20_000, kept=30_000)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "packed"])
def test_no_line_is_lost_or_doubled_under_a_writer_at_full_speed(collapsing: LogFiles, compress: bool) -> None:
    logs, path = collapsing, collapsing.path("a")
    logs.rule("a", LogPolicy(max_size=MIB, keep=1000, compress=compress))
    followed: list[bytes] = []
    tail = LogTail(path)

    def follow(over: threading.Event) -> None:
        while not over.is_set():
            followed.extend(tail.poll())
            time.sleep(0.001)

    with tail:
        with in_thread(follow), start_writer(logs, 200_000) as writer:
            while writer.poll() is None:
                logs.rotate_due()
                time.sleep(0.005)
            logs.rotate_due()
        followed += read_lines(tail)
    assert len(rotated_files(path)) >= 5
    assert numbers(joined(path)) == list(range(200_000))
    assert numbers(b"".join(followed)) == list(range(200_000))


def test_rotations_in_two_threads_lose_and_double_nothing(collapsing: LogFiles) -> None:
    logs, path = collapsing, collapsing.path("a")
    logs.rule("a", LogPolicy(max_size=64 * 1024, keep=1000))

    def rotate(over: threading.Event) -> None:
        while not over.is_set():
            logs.rotate_due()

    with in_thread(rotate), in_thread(rotate), start_writer(logs, 100_000, 0.001) as writer:
        writer.wait()
    assert logs.problems == ()
    assert numbers(joined(path)) == list(range(100_000))


def test_truncation_keeps_the_order_and_doubles_nothing(truncating: LogFiles) -> None:
    logs, path = truncating, truncating.path("a")
    logs.rule("a", LogPolicy(max_size=MIB, keep=1000))
    with start_writer(logs, 200_000) as writer:
        while writer.poll() is None:
            logs.rotate_due()
            time.sleep(0.01)
    logs.rotate_due()
    found = numbers(joined(path))
    assert found == sorted(set(found))
    # Each rotation may lose what is written between its copy and its cut, in one piece.
    gaps = sum(later != earlier + 1 for earlier, later in itertools.pairwise(found))
    assert gaps <= len(rotated_files(path)) > 0


def test_rotator_that_is_killed_again_and_again_loses_and_doubles_nothing(collapsing: LogFiles, home: Home) -> None:
    code = """
import sys
from stigmerd.adapters.disk.output import LogFiles
from stigmerd.adapters.disk.store import Home
from stigmerd.core.spec import LogPolicy
logs = LogFiles(Home.at(sys.argv[1]), collapses=True)
logs.recover()
logs.rule("a", LogPolicy(max_size=65536, keep=10_000, compress=True))
while True:
    logs.rotate_due()
    print(flush=True)
"""
    logs, path = collapsing, collapsing.path("a")
    chance = random.Random(11)
    with LogTail(path) as tail, start_writer(logs, 60_000, pause=0.005) as writer:
        followed: list[bytes] = []
        for _ in range(10):
            with start_python(code, home.path, stdout=subprocess.PIPE) as rotator:
                assert rotator.stdout is not None
                for _ in range(chance.randrange(1, 20)):
                    rotator.stdout.readline()
                time.sleep(chance.uniform(0, 0.005))
                rotator.kill()
            followed += tail.poll()
        writer.kill()  # if it is not through yet
        writer.wait()
        logs.recover()
        followed += read_lines(tail)
        assert tail.missed == 0
    found = numbers(joined(path))
    assert rotated_files(path)
    assert found == list(range(len(found)))
    assert numbers(b"".join(followed)) == found


CONTENTS = {
    "numbered": b"".join(b"line %07d\n" % number for number in range(1500)),
    "all the same": b"the same line\n" * 1500,
}


@pytest.mark.parametrize("collapses", [True, False], ids=["collapse", "truncate"])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_crash_in_any_system_call_of_a_rotation_loses_and_doubles_nothing(
    home: Home, collapses: bool, compress: bool, content: bytes
) -> None:
    if collapses:
        require_collapse(Path(home.logs))
    path = LogFiles(home).path("a")
    tail = LogTail(path)

    def begin() -> None:
        nonlocal tail
        for entry in os.listdir(home.logs):
            os.unlink(os.path.join(home.logs, entry))
        Path(path).write_bytes(content)
        Path(f"{path}.1").write_bytes(b"older\n")
        Path(f"{path}.3").write_bytes(b"oldest\n")
        tail = LogTail(path, last=len(content.splitlines()) - 7)

    def rotate() -> None:
        logs = LogFiles(home, collapses=collapses)
        logs.rule("a", LogPolicy(max_size=8192, keep=100, compress=compress))
        logs.rotate_due()
        assert not logs.problems

    everything = b"oldest\nolder\n" + content
    deaths = 0
    for call in die_in_every_call(rotate, begin):
        deaths = call
        with tail:
            assert b"".join(read_lines(tail)) == b"".join(content.splitlines(keepends=True)[7:]), call
        with LogTail(path, last=None) as reader:  # while no daemon runs
            assert b"".join(read_lines(reader)) == everything, call
        logs = LogFiles(home, collapses=collapses)
        logs.recover()
        assert not logs.problems
        assert joined(path) == everything, call
        with open(path, "ab") as log:
            log.write(b"more\n" * 2000)
        logs.rule("a", LogPolicy(max_size=8192, keep=100))
        logs.rotate_due()
        assert joined(path) == everything + b"more\n" * 2000, call
        assert os.stat(path).st_size <= 8192
        assert not [name for name in os.listdir(home.logs) if name.endswith((".part", ".packing", ".tmp"))]
    assert deaths > 10


@pytest.mark.parametrize("collapses", [True, False], ids=["collapse", "truncate"])
def test_full_disk_neither_loses_nor_doubles_and_rotation_follows_when_there_is_room(
    home: Home, collapses: bool
) -> None:
    if collapses:
        require_collapse(Path(home.logs))
    logs = LogFiles(home, collapses=collapses)
    logs.rule("a", LogPolicy(max_size=8192, keep=100))
    Path(logs.path("a")).write_bytes(CONTENTS["numbered"])
    for free in (0, 50, 5000):
        with full_disk(free=free):
            logs.rotate_due()
            assert "cannot be rotated" in logs.problems[0]
        assert joined(logs.path("a")) == CONTENTS["numbered"]
    logs.rotate_due()
    assert not logs.problems
    assert joined(logs.path("a")) == CONTENTS["numbered"]
    assert os.stat(logs.path("a")).st_size <= 8192


@pytest.mark.parametrize("collapses", [True, False], ids=["collapse", "truncate"])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_disk_use_is_capped_and_what_is_dropped_is_counted_and_said(home: Home, collapses: bool, keep: int) -> None:
    if collapses:
        require_collapse(Path(home.logs))
    logs = LogFiles(home, collapses=collapses)
    logs.rule("a", LogPolicy(max_size=65536, keep=keep))
    block = b"x" * 49 + b"\n"
    fd = logs.open_for_child("a")
    for _ in range(8):
        os.write(fd, block * 10_000)
        logs.rotate_due()
        use = sum(entry.stat().st_size for entry in os.scandir(home.logs))
        assert use <= (keep + 2) * 65536
    os.close(fd)
    assert max(rotated_files(logs.path("a")), default=0) <= keep
    if keep:
        assert any("bytes were dropped" in problem for problem in logs.problems)
        assert b": Dropped " in joined(logs.path("a")) or len(logs.problems) == 1
    else:
        assert not logs.problems


def test_smaller_keep_removes_what_is_too_much(truncating: LogFiles) -> None:
    logs, path = truncating, truncating.path("a")
    for number in range(1, 9):
        Path(f"{path}.{number}").write_bytes(b"old\n")
    Path(path).write_bytes(b"x" * 9000)
    logs.rule("a", LogPolicy(max_size=8192, keep=2))
    logs.rotate_due()
    assert sorted(rotated_files(path)) == [1, 2]


def test_rotated_files_are_private_and_named_as_promised(collapsing: LogFiles, home: Home) -> None:
    logs, path = collapsing, collapsing.path("a")
    logs.rule("a", LogPolicy(max_size=8192, keep=5, compress=True))
    Path(path).write_bytes(CONTENTS["numbered"])
    logs.rotate_due()
    names = {name for name in os.listdir(home.logs) if not name.startswith(".")}
    assert names == {"a.log", "a.log.1.gz", "a.log.2.gz"}
    assert all(os.stat(os.path.join(home.logs, name)).st_mode & 0o077 == 0 for name in names - {"a.log"})


@pytest.mark.parametrize("place", [".a.log.part", ".a.log.ledger", ".a.log.ledger.tmp", ".a.log.packing"])
def test_rotation_follows_no_link_in_the_place_of_its_own_files(
    collapsing: LogFiles, home: Home, tmp_path: Path, place: str
) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    os.symlink(tmp_path / "victim", os.path.join(home.logs, place))
    Path(collapsing.path("a")).write_bytes(CONTENTS["numbered"])
    collapsing.rule("a", LogPolicy(max_size=8192, keep=100, compress=True))
    collapsing.rotate_due()
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert joined(collapsing.path("a")) == CONTENTS["numbered"]


def test_log_that_was_replaced_is_rotated_as_a_new_one(collapsing: LogFiles) -> None:
    logs, path = collapsing, collapsing.path("a")
    logs.rule("a", LogPolicy(max_size=8192, keep=100))
    Path(path).write_bytes(CONTENTS["numbered"])
    logs.rotate_due()
    os.rename(path, f"{path}.old")
    rest = Path(f"{path}.old").read_bytes()
    Path(path).write_bytes(b"new\n" * 5000)
    logs.rotate_due()
    assert joined(path) == CONTENTS["numbered"].removesuffix(rest) + b"new\n" * 5000


def test_daemons_own_log_is_kept_small_too(collapsing: LogFiles) -> None:
    collapsing.append("stigmerd", b"y" * (11 * MIB) + b"\n")
    collapsing.rotate_due()
    assert os.stat(collapsing.path("stigmerd")).st_size < 2 * MIB
    assert os.stat(collapsing.path("stigmerd") + ".1").st_size == 10 * MIB
