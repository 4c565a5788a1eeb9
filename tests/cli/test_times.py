"""Durations and instants, read and written."""

from __future__ import annotations

import pytest

from stigmerd.cli.times import ago, duration_text, parse_duration, parse_rfc3339, parse_since, size_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("1.5", 1.5), ("500ms", 0.5), ("10s", 10), ("10m", 600), ("1h30m", 5400), ("2d", 172800)],
)
def test_duration_is_a_number_or_has_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "10 s", "-1", "1e3", "10m5", "nan", "\u0661\u0660"])
def test_anything_else_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.42, "0.4s"), (12.3, "12s"), (59.9, "1m00s"), (192, "3m12s"), (7500, "2h05m"), (273600, "3d4h")],
)
def test_duration_is_written_in_at_most_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_since_is_a_duration_ago_or_a_time() -> None:
    assert parse_since("10m", 1000.0) == 400.0
    assert parse_since("1970-01-01T00:01:00Z", 1000.0) == 60.0
    assert parse_since("yesterday", 1000.0) is None


def test_time_without_a_zone_is_none() -> None:
    assert parse_rfc3339("2026-01-22T04:00:00") is None
    assert parse_rfc3339(None) is None
    assert ago(None, 0.0) == ""


def test_sizes_have_units() -> None:
    assert [size_text(n) for n in (512, 2048, 83_886_080, 5 << 30)] == ["512 B", "2.0 KiB", "80.0 MiB", "5.0 GiB"]
