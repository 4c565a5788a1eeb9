"""Whatever is in the files of the history: nothing raises, no number repeats, and the next daemon goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stigmerd.adapters.disk.store import EventFiles, EventTail, Home, read_events
from stigmerd.core.event import Entry

FILES = ("events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3")

NUMBERS = st.integers(-5, 40) | st.sampled_from([2**62, 2**63, 2**64, 10**30])

ENTRIES = st.fixed_dictionaries(
    {"seq": NUMBERS, "at": st.text(max_size=5), "event": st.sampled_from(["starting", "exited", ""])},
    optional={"component": st.none() | st.text(max_size=3), "life": st.none() | NUMBERS, "code": NUMBERS},
)

JUNK = (
    st.binary(max_size=40)
    | st.sampled_from([b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"seq":1}', b'{"seq":NaN}', b"[" * 5000, b"{" * 5000])
    | st.text(alphabet='{}[]":,\\ue0d8sq1 ', max_size=40).map(str.encode)
)


def to_line(entry: dict[str, object]) -> bytes:
    return json.dumps(entry).encode()


LINES = st.lists(ENTRIES.map(to_line) | JUNK, max_size=12)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    home.prepare()
    return home


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(LINES, min_size=1, max_size=4), torn=JUNK, since=st.integers(-1, 40))
def test_any_bytes_in_the_history_are_read_without_a_repeat_and_gone_on_from(
    home: Home, files: list[list[bytes]], torn: bytes, since: int
) -> None:
    shutil.rmtree(home.state)
    home.prepare()
    for name, lines in zip(FILES, files, strict=False):
        Path(home.state, name).write_bytes(b"".join(line + b"\n" for line in lines) + torn)
    found = [entry.seq for entry in read_events(home, since)]
    assert found == sorted({*found})
    assert all(seq > since for seq in found)
    with EventTail(home, since) as tail:
        assert [entry.seq for entry in tail.poll()] == found
        events = EventFiles(home)
        number = events.last_seq + 1
        events.append(Entry(seq=number, at="now", component=None, life=None, event="daemon_started", details={}))
        events.close()
        assert events.problem is None
        later = [entry.seq for entry in tail.poll()]
        assert found + later == sorted({*found, *later})
    again = [entry.seq for entry in read_events(home)]
    assert again == sorted({*again})
    assert again[-1] == number
    assert number > since or not later
