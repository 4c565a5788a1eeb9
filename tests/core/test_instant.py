"""Instants as documents write them."""

from __future__ import annotations

import pytest

from stigmerd.core.instant import rfc3339


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_769_054_401.25, "2026-01-22T04:00:01.250Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
    ],
)
def test_instant_is_written_in_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


@pytest.mark.parametrize(("seconds", "year"), [(1e300, "9999"), (float("inf"), "9999"), (-1e300, "0001")])
def test_instant_that_has_no_name_is_written_as_the_nearest_that_has(seconds: float, year: str) -> None:
    assert rfc3339(seconds).startswith(year)
