"""Instants and durations in an operator's words."""

from __future__ import annotations

import re
from datetime import datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_rfc3339(text: str | None) -> float | None:
    """Seconds since the epoch; None for nothing, or for what is no time with a date and a zone."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo is not None else None


def parse_duration(text: str) -> float | None:
    """Seconds of ``10``, ``500ms``, ``10m`` or ``1h30m``; None for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    if not text or _PART.sub("", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def parse_since(text: str, now: float) -> float | None:
    """The instant that ``--since`` means: so long ago, or at an RFC 3339 time. None if it is neither."""
    duration = parse_duration(text)
    return now - duration if duration is not None else parse_rfc3339(text)


def duration_text(seconds: float) -> str:
    """A duration in at most two units: ``0.4s``, ``12s``, ``3m12s``, ``2h05m``, ``3d4h``."""
    if seconds < 0.95:
        return f"{max(0.0, seconds):.1f}s" if seconds >= 0.05 else "0s"
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86400}d{total % 86400 // 3600}h"


def ago(at: str | None, now: float) -> str:
    """How long ago a time of a document was, ``12s ago``, or "" where there is none."""
    seconds = parse_rfc3339(at)
    return f"{duration_text(max(0.0, now - seconds))} ago" if seconds is not None else ""


def local_time(at: str | None, now: float) -> str:
    """A time of a document on the operator's clock, with the date where it is not within the last day."""
    seconds = parse_rfc3339(at)
    if seconds is None:
        return ""
    moment = datetime.fromtimestamp(seconds)
    return f"{moment:%H:%M:%S}" if abs(now - seconds) < 86400 else f"{moment:%Y-%m-%d %H:%M:%S}"


def size_text(count: int) -> str:
    """Bytes as ``512 B`` or ``81.3 MiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
