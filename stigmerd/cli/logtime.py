"""Reads the time off a log line, and puts the lines of several logs into one order. Pure.

Known forms: RFC 3339 (also with a space, a comma, or no zone: then local time, as Python's logging
writes it), Go's ``log``, klog, the access logs of web servers, seconds to nanoseconds of the epoch,
and the ``time``, ``ts`` and ``timestamp`` fields of JSON and logfmt. A line without a time belongs
to the line before it.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from operator import itemgetter
from typing import NamedTuple

HEAD = 512
"""Bytes of a line that are looked at."""

_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
_DATE = re.compile(
    rb"(?<!\d)(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    rb"(?: ?(Z|[+-]\d\d:?\d\d)(?!\d))?"
)
_ACCESS = re.compile(
    rb"\[(\d\d)/(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)/(\d{4})[: ]"
    rb"(\d\d):(\d\d):(\d\d)(?: ([+-]\d{4}))?\]"
)
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DATE_WITHIN = 48
"""A date that begins later than this in a line is what the line tells of, not when it was written."""
_KLOG = re.compile(rb"[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{1,9})\s")
_EPOCH = re.compile(rb"\W?(1\d{9})(\d{3}|\d{6}|\d{9})?(\.\d+)?(?![\d.\w])")
_FIELD = re.compile(rb"""(?:^|[{,\s])"?@?(?:time|ts|timestamp)"?\s*[:=]\s*"?([^",}\s]+(?: \d\d:[^",}]+)?)""")


class Stamped(NamedTuple):
    """One line with the instant it sorts by, in seconds since the epoch."""

    at: float
    name: str
    data: bytes


def parse_time(data: bytes, now: float) -> float | None:
    """When the line says that it was written. ``now`` gives klog's lines their year."""
    head = data[:HEAD]
    if head.startswith(b"\x1b"):
        head = _COLOURS.sub(b"", head)
    if head.startswith((b" ", b"\t")):
        return None  # the continuation of a traceback or a dump, whatever dates it shows
    field = _FIELD.search(head) if b"t" in head else None
    return _of_text(field.group(1), now) if field else _of_text(head, now)


def _of_text(text: bytes, now: float) -> float | None:
    epoch = _EPOCH.match(text)
    if epoch:
        seconds, digits, fraction = epoch.groups()
        return float(seconds) + float(b"0." + (digits or b"0")) + float(b"0" + fraction if fraction else b"0")
    klog = _KLOG.match(text)
    if klog:
        return _of_klog(klog, now)
    date = _DATE.search(text, 0, _DATE_WITHIN + 40)
    if date and date.start() <= _DATE_WITHIN:
        *numbers, fraction, zone = date.groups()
        return _instant(numbers, fraction, zone)
    access = _ACCESS.search(text)
    if access:
        day, month, year, *clock, zone = access.groups()
        return _instant([year, b"%d" % (_MONTHS.index(month) + 1), day, *clock], None, zone)
    return None


def _instant(numbers: Sequence[bytes], fraction: bytes | None, zone: bytes | None) -> float | None:
    """The instant of a date and a clock time, None where there is no such day or hour."""
    year, month, day, hour, minute, second = map(int, numbers)
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=_zone(zone))
        return moment.timestamp() + float(b"0." + (fraction or b"0"))
    except (ValueError, OverflowError):
        return None


def _zone(text: bytes | None) -> timezone | None:
    """The zone that a time names; None is the operator's own."""
    if text is None:
        return None
    if text == b"Z":
        return timezone.utc  # noqa: UP017  (the same object; the annotation says timezone)
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text.startswith(b"-") else minutes))


def _of_klog(match: re.Match[bytes], now: float) -> float | None:
    *numbers, fraction = match.groups()
    month, day, hour, minute, second = map(int, numbers)
    year = datetime.fromtimestamp(now).year
    for candidate in (year, year - 1):  # klog leaves the year out: it is the last one with that day
        try:
            at = datetime(candidate, month, day, hour, minute, second).timestamp()
        except ValueError:
            continue
        if at <= now + 86400:
            return at + float(b"0." + fraction)
    return None


def stamp(name: str, lines: Sequence[bytes], now: float, before: float | None = None) -> list[Stamped]:
    """The lines of one log, each with an instant no earlier than that of the line before.

    ``before`` is the last instant that is known of this log; without it, lines that precede the
    first time share it.
    """
    times = [parse_time(data, now) for data in lines]
    current = before if before is not None else next((at for at in times if at is not None), float("-inf"))
    stamped = []
    for at, data in zip(times, lines, strict=True):
        current = max(current, at) if at is not None else current
        stamped.append(Stamped(current, name, data))
    return stamped


def interleave(logs: Mapping[str, Sequence[Stamped]]) -> Iterable[Stamped]:
    """All lines by time; lines of one log keep their order."""
    return heapq.merge(*logs.values(), key=itemgetter(0))
