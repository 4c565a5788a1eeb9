"""Instants as people and documents write them. Which instant it is, is the caller's business."""

from __future__ import annotations

from datetime import UTC, datetime

FIRST_INSTANT = -62_135_596_800.0
LAST_INSTANT = 253_402_300_799.0
"""The first and the last second that RFC 3339 can name. A backoff may be configured to end later, and a line
of output may bear any date, in any zone."""


def rfc3339(seconds: float) -> str:
    """An instant since the epoch as RFC 3339 in UTC with milliseconds; the nearest that has a name there."""
    named = max(FIRST_INSTANT, min(seconds, LAST_INSTANT))
    return f"{datetime.fromtimestamp(named, UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"
