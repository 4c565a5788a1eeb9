"""The time of a log line, and the order of several logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.cli.logs import JsonPrinter
from stigmerd.cli.logtime import interleave, parse_time, stamp

NOW = 1769054412.0
"""2026-01-22T04:00:12Z."""
LINE = 1769054400.25
"""2026-01-22T04:00:00.250Z."""


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-22T04:00:00.250Z stigmerd[web]: Started web",
        "2026-01-22T05:00:00.250+01:00 hello",
        "2026-01-21 23:00:00.250 -0500 hello",
        "2026/01/22 04:00:00.250000 main.go:12: hello",
        "2026-01-22 04:00:00,250 INFO hello",
        "INFO 2026-01-22 04:00:00,250 hello",
        "[2026-01-22 04:00:00.250 +0000] [12] [INFO] hello",
        "1769054400.250 hello",
        "1769054400250 hello",
        "[1769054400250000] hello",
        '{"level":"info","ts":1769054400.25,"msg":"hello"}',
        '{"time":"2026-01-22T04:00:00.250Z","msg":"hello"}',
        '{"msg":"x", "timestamp": 1769054400250}',
        '{"@timestamp": "2026-01-22T04:00:00.250Z"}',
        'time="2026-01-22T04:00:00.250Z" level=info msg=hello',
        "I0122 04:00:00.250000    1 server.go:10] hello",
        "\x1b[32m2026-01-22T04:00:00.250Z\x1b[0m hello",
    ],
)
def test_common_forms_of_time_are_understood(text: str) -> None:
    assert parse_time(text.encode(), NOW) == pytest.approx(LINE)


def test_access_log_has_a_time() -> None:
    assert parse_time(b'127.0.0.1 - - [22/Jan/2026:05:00:00 +0100] "GET / HTTP/1.1" 200 -', NOW) == 1769054400.0


def test_klog_of_december_is_of_the_year_before() -> None:
    assert parse_time(b"I1231 23:59:59.000000 1 x] y", NOW) == 1767225599.0


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "",
        "  File x, 2026-01-22T04:00:00Z",
        "\tat 2026-01-22T04:00:00Z",
        "2026-13-45T99:00:00Z",
        "12345 items",
        "the long story of how all of us came to this very day, 2026-01-22T04:00:00Z, and stayed",
        "0000/00/00 00:00:00 x",
    ],
)
def test_line_without_a_time_has_none(text: str) -> None:
    assert parse_time(text.encode(), NOW) is None


@given(st.binary(max_size=200))
def test_no_line_breaks_the_parser(data: bytes) -> None:
    at = parse_time(data, NOW)
    assert at is None or at == at


@given(st.lists(st.sampled_from([b"1769054400 a", b"1769054500 b", b"no time", b"1769054300 c"])))
def test_lines_of_one_log_keep_their_order(lines: list[bytes]) -> None:
    merged = interleave({"a": stamp("a", lines, NOW), "b": stamp("b", [b"1769054450 other"], NOW)})
    assert [entry.data for entry in merged if entry.name == "a"] == lines


@pytest.mark.parametrize(
    ("line", "at"),
    [
        (b"9999-12-31T23:59:59-14:00 late", "9999-12-31T23:59:59.000Z"),
        (b"0001-01-01T00:00:00+14:00 early", "0001-01-01T00:00:00.000Z"),
    ],
)
def test_line_whose_time_has_no_name_in_utc_is_printed_with_the_nearest_that_has(
    line: bytes, at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in stamp("a", [line], NOW):
        JsonPrinter().write(entry)
    assert json.loads(capsys.readouterr().out)["at"] == at


def test_lines_are_interleaved_and_those_without_a_time_stay_after_the_line_before() -> None:
    a = stamp("a", [b"1769054400 one", b"  traceback", b"1769054402 three"], NOW)
    b = stamp("b", [b"before any time", b"1769054401 two"], NOW)
    assert [entry.data for entry in interleave({"a": a, "b": b})] == [
        b"1769054400 one",
        b"  traceback",
        b"before any time",
        b"1769054401 two",
        b"1769054402 three",
    ]
