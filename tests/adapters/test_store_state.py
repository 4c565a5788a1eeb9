"""The state on disk: the old or the new one after any crash, and nothing dangerous out of any file."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stigmerd.adapters.disk.store import Home, Loaded, StateFiles, read_state
from stigmerd.core.record import ComponentRecord, DaemonRecord, Identity
from stigmerd.core.status import ComponentDocument
from tests.adapters.disk import die_in_every_call, full_disk, in_thread, start_python

DAEMON = DaemonRecord(pid=4711, start_ticks=1, boot_id="boot", version="0.1.0", started_at="2026-01-22T04:00:00.000Z")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    home.prepare()
    return home


def record(name: str, life: int = 1, pid: int | None = 4242, text: str = "") -> ComponentRecord:
    return ComponentRecord(
        name=name,
        phase="RUNNING",
        wanted=True,
        life=life,
        definition="digest",
        shown=ComponentDocument(name=name, kind="process", state="running", healthy=True, pid=pid, reason=text),
        identity=Identity(nonce="nonce", boot_id="boot", pid=pid),
    )


def opened(home: Home) -> tuple[StateFiles, Loaded]:
    state = StateFiles(home)
    return state, state.load()


def state_path(home: Home) -> Path:
    return Path(home.state, "state.json")


def saved(home: Home, *records: ComponentRecord) -> None:
    """A state as a daemon leaves it after an orderly end."""
    state, _ = opened(home)
    state.set_daemon(DAEMON)
    for one in records:
        state.put(one)
    state.checkpoint(last_seq=17)
    state.close()


def test_empty_home_has_an_empty_state_and_no_problem(home: Home) -> None:
    assert opened(home)[1] == Loaded()
    assert read_state(home) == Loaded()


def test_records_are_found_by_the_next_daemon_without_a_checkpoint(home: Home) -> None:
    state, _ = opened(home)
    state.set_daemon(DAEMON)
    state.put(record("a", life=1))
    state.put(record("b"))
    state.put(record("a", life=2))
    state.forget("b")
    state.close()
    assert opened(home)[1] == Loaded(daemon=DAEMON, components={"a": record("a", life=2)})


def test_records_are_in_the_order_of_the_file_and_others_behind_them(home: Home) -> None:
    saved(home, record("b"), record("removed"), record("a"))
    state, _ = opened(home)
    state.set_daemon(msgspec.structs.replace(DAEMON, order=("a", "b", "never-put")))
    state.close()
    assert list(read_state(home).components) == ["a", "b", "removed"]


def test_checkpoint_makes_one_readable_file(home: Home) -> None:
    saved(home, record("a"))
    document = json.loads(state_path(home).read_text())
    assert document["schema"] == 1
    assert document["components"]["a"]["life"] == 1
    assert state_path(home).stat().st_mode & 0o777 == 0o600
    assert read_state(home) == Loaded(daemon=DAEMON, components={"a": record("a")}, last_seq=17)


def test_changes_after_a_checkpoint_count_and_those_before_do_not_come_back(home: Home) -> None:
    state, _ = opened(home)
    state.put(record("a"))
    state.put(record("b"))
    state.checkpoint()
    state.forget("a")
    state.checkpoint()
    state.put(record("b", life=5))
    state.close()
    assert read_state(home).components == {"b": record("b", life=5)}


def test_life_number_of_a_removed_component_is_known_to_the_next_daemon(home: Home) -> None:
    state, _ = opened(home)
    state.put(record("a", life=7))
    state.forget("a")
    state.put(record("b", life=2))
    state.close()
    state, loaded = opened(home)
    assert {*loaded.components} == {"b"}
    assert [state.last_life(name) for name in ("a", "b", "c")] == [7, 2, 0]
    state.checkpoint()
    state.close()
    assert opened(home)[0].last_life("a") == 7


def test_checkpoint_without_news_writes_nothing(home: Home) -> None:
    state, _ = opened(home)
    state.put(record("a"))
    state.checkpoint()
    before = state_path(home).stat()
    state.checkpoint()
    assert state_path(home).stat().st_mtime_ns == before.st_mtime_ns
    state.close()


def test_changes_do_not_grow_with_the_number_of_restarts(home: Home) -> None:
    state, _ = opened(home)
    for life in range(1, 300):
        state.put(record("a", life=life))
        if life % 10 == 0:
            state.checkpoint()
    state.close()
    assert sum(entry.stat().st_size for entry in os.scandir(home.state)) < 60_000
    assert read_state(home).components["a"].life == 299


def test_state_survives_a_crash_in_any_system_call(home: Home) -> None:
    lives = iter(range(1, 1_000_000))
    newest = 0
    reached = 0

    def restore() -> None:
        nonlocal newest
        newest = next(lives)
        state, _ = opened(home)
        state.put(record("a", life=newest))
        state.close()

    def work() -> None:
        nonlocal reached
        reached = newest
        state, _ = opened(home)
        for _ in range(2):
            reached = next(lives)
            state.put(record("a", life=reached))
            state.checkpoint()
        state.close()

    for call in die_in_every_call(work, restore):
        found = read_state(home)
        # Half a line may be the last of it: then the change before is the truth.
        assert found.components["a"].life in {reached - 1, reached}, call
        assert found.problems == [], call
        assert opened(home)[1] == found, call


def test_state_is_the_newest_that_was_announced_when_its_writer_is_killed(home: Home) -> None:
    code = """
import sys, threading
from stigmerd.adapters.disk.store import Home, StateFiles
from tests.adapters.test_store_state import record
state = StateFiles(Home.at(sys.argv[1]))
life = max((r.life for r in state.load().components.values()), default=0)
def checkpoint():
    while True:
        state.checkpoint()
threading.Thread(target=checkpoint, daemon=True).start()
while True:
    life += 1
    state.put(record("a", life=life))
    print(life, flush=True)
"""
    chance = random.Random(7)
    for _ in range(3):
        with start_python(code, home.path, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 400))]
            writer.kill()
            announced = int((lines + writer.stdout.readlines())[-1])
        found = read_state(home)
        assert found.problems == []
        assert found.components["a"].life in {announced, announced + 1}


def test_torn_last_change_is_as_if_it_had_never_been(home: Home) -> None:
    state, _ = opened(home)
    state.put(record("a", life=1))
    state.close()
    with open(Path(home.state, "changes.jsonl"), "ab") as changes:
        changes.write(b'{"schema":1,"sequence":2,"forg')
    state, found = opened(home)
    assert found == Loaded(components={"a": record("a", life=1)})
    state.put(record("b"))
    state.close()
    assert read_state(home) == Loaded(components={"a": record("a", life=1), "b": record("b")})


BAD = {
    "empty": b"",
    "truncated": b'{"schema": 1, "sequence": 3, "compon',
    "of wrong types": b'{"schema": 1, "sequence": "three"}',
    "no object": b"[]",
    "from a newer version": b'{"schema": 2, "everything": "else"}',
    "no text": b"\xff\xfe\x00",
    "nested too deeply": b'{"schema": 1, "x": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_state_that_cannot_be_used_is_set_aside_and_said_and_the_one_before_completed(
    home: Home, content: bytes
) -> None:
    state, _ = opened(home)
    for life in (1, 2, 3):
        state.put(record("a", life=life))
        state.checkpoint()
    state.put(record("a", life=4))
    state.close()
    state_path(home).write_bytes(content)
    assert len(read_state(home).problems) == 1
    state, found = opened(home)
    assert found.components == {"a": record("a", life=4)}
    (problem,) = found.problems
    assert f"{state_path(home)} cannot be used and is set aside" in problem
    (aside,) = Path(home.state).glob("state.json.bad-*")
    assert aside.read_bytes() == content
    state.checkpoint()
    state.close()
    assert read_state(home) == Loaded(components={"a": record("a", life=4)})


@pytest.mark.parametrize("pid", [0, 1, -1, 2**31, 2**70])
def test_state_that_names_a_process_nobody_may_signal_is_set_aside(home: Home, pid: int) -> None:
    saved(home, record("a"))
    document = json.loads(state_path(home).read_text())
    document["components"]["a"]["identity"]["pid"] = pid
    document["sequence"] += 1
    state_path(home).write_text(json.dumps(document))
    _, found = opened(home)
    assert found.problems
    assert found.components == {"a": record("a")}
    assert list(Path(home.state).glob("state.json.bad-*"))


def test_change_that_names_pid_one_is_left_out_and_said(home: Home) -> None:
    state, _ = opened(home)
    state.put(record("a", pid=1))
    state.put(record("b"))
    state.close()
    found = read_state(home)
    assert found.components == {"b": record("b")}
    assert "1 of 2 changes were left out: a names pid 1" in found.problems[0]


def test_life_with_the_daemons_own_pid_is_taken_as_over_and_its_counters_go_on(home: Home) -> None:
    saved(home, record("a", life=9, pid=os.getpid()))
    found = opened(home)[1]
    assert found.components["a"].identity is None
    assert found.components["a"].shown.pid is None
    assert found.components["a"].life == 9
    assert "daemon's own pid" in found.problems[0]


@pytest.mark.parametrize("name", ["state.json", "changes.jsonl"])
def test_file_that_is_no_regular_file_is_set_aside(home: Home, name: str, tmp_path: Path) -> None:
    path = Path(home.state, name)
    makers: list[Callable[[], object]] = [
        lambda: path.symlink_to(tmp_path / "victim"),
        path.mkdir,
        lambda: os.mkfifo(path),
    ]
    for make in makers:
        make()
        state, found = opened(home)
        assert len(found.problems) == 1
        state.put(record("a"))
        state.checkpoint()
        state.close()
        assert not os.path.lexists(tmp_path / "victim")
        assert read_state(home).components["a"] == record("a")
        path.unlink(missing_ok=True)


def test_only_a_few_files_that_were_set_aside_are_kept(home: Home) -> None:
    for _ in range(9):
        state_path(home).write_bytes(b"?")
        opened(home)
    assert len(list(Path(home.state).glob("state.json.bad-*"))) == 5


def test_full_disk_keeps_the_old_state_and_is_said_until_the_new_one_is_written(home: Home) -> None:
    saved(home, record("a", life=1))
    state, _ = opened(home)
    with full_disk(free=10):
        state.put(record("a", life=2))
        state.put(record("b", life=1))
        state.put(record("a", life=3))
        state.checkpoint()
        assert "cannot be written" in str(state.problem)
        assert read_state(home) == Loaded(daemon=DAEMON, components={"a": record("a", life=1)}, last_seq=17)
    state.checkpoint()
    assert state.problem is None
    state.close()
    assert read_state(home).components == {"a": record("a", life=3), "b": record("b")}


def test_change_that_the_disk_refused_is_written_with_the_next_one(home: Home) -> None:
    state, _ = opened(home)
    with full_disk(free=10):
        state.put(record("a"))
    state.put(record("b"))
    assert state.problem is None
    state.close()
    assert read_state(home) == Loaded(components={"a": record("a"), "b": record("b")})


def test_state_folder_that_was_removed_is_made_again(home: Home) -> None:
    state, _ = opened(home)
    state.put(record("a"))
    for entry in os.listdir(home.state):
        os.unlink(Path(home.state, entry))
    os.rmdir(home.state)
    state.put(record("b"))
    state.checkpoint()
    state.close()
    assert read_state(home) == Loaded(components={"a": record("a"), "b": record("b")})


def test_text_that_is_no_unicode_does_not_keep_a_record_from_being_written(home: Home) -> None:
    saved(home, record("a", text="\udcff and more"))
    assert read_state(home).components["a"].shown.reason == "? and more"


def test_checkpoints_in_a_thread_lose_no_change_of_the_loop(home: Home) -> None:
    state, _ = opened(home)

    def checkpoint(over: threading.Event) -> None:
        while not over.is_set():
            state.checkpoint()

    with in_thread(checkpoint):
        for life in range(1, 2000):
            state.put(record(f"c{life % 7}", life=life))
    state.close()
    found = read_state(home)
    assert found.problems == []
    assert {one.life for one in found.components.values()} == set(range(1993, 2000))


GOOD = msgspec.json.encode({"schema": 1, "sequence": 3, "components": {"a": record("a")}})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_the_files_raises_or_yields_a_forbidden_pid(home: Home, data: st.DataObject) -> None:
    change = b'{"schema":1,"sequence":4,"put":' + msgspec.json.encode(record("b")) + b"}\n"
    for name, good in (("state.json", GOOD), ("changes.jsonl", change)):
        content = bytearray(good)
        for _ in range(data.draw(st.integers(0, 3))):
            start = data.draw(st.integers(0, len(content)))
            end = data.draw(st.integers(start, min(start + 20, len(content))))
            content[start:end] = data.draw(st.sampled_from([b"", b"0", b"-1", b"1", b"null", b"[", b"9" * 30]))
        Path(home.state, name).write_bytes(data.draw(st.sampled_from([bytes(content), data.draw(st.binary())])))
    for one in read_state(home).components.values():
        for pid in (one.shown.pid, one.identity.pid if one.identity else None):
            assert pid is None or 1 < pid < 2**31


def test_room_that_was_reserved_takes_the_changes_of_a_full_disk(home: Home) -> None:
    saved(home, record("a", life=1))
    changes = Path(home.state, "changes.jsonl")
    assert changes.stat().st_blocks * 512 >= 64 * 1024 > changes.stat().st_size
