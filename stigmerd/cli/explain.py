"""``explain``: the causal report, from the daemon, or from the files of a dead one."""

from __future__ import annotations

import json
import sys
import time

import msgspec

from stigmerd.adapters.store import Home, read_events
from stigmerd.cli.errors import FAILED, NOT_RUNNING, OK, CommandError, check_names
from stigmerd.cli.escape import escape, escape_line
from stigmerd.cli.paint import Line, Span, cut_line, line, paint, screen_width, wants_colour
from stigmerd.cli.reach import fetch_status, find_home, hint, not_running, reached
from stigmerd.cli.render import SYMBOLS
from stigmerd.cli.status import last_known
from stigmerd.cli.times import ago, local_time
from stigmerd.core.explain import TAIL_LINES, ExplainReport, build_report
from stigmerd.core.status import to_plain


def explain(name: str, *, home: str | None, as_json: bool) -> int:
    """Print the report on one component."""
    place = find_home(home)
    report = fetch_report(place, name)
    if as_json:
        sys.stdout.write(json.dumps(to_plain(report)) + "\n")
        return OK
    command = _with_home(report.command, place)
    lines = render_report(report, now=time.time(), command=command, width=screen_width(sys.stdout))
    sys.stdout.write(paint(lines, colour=wants_colour(sys.stdout)))
    return OK


def fetch_report(home: Home, name: str) -> ExplainReport:
    """The report of a running daemon, else one that is built from what a dead one left.

    Raises:
        CommandError: there is no such component, or nothing at all.
    """
    try:
        with reached(home) as client:
            fetch_status(client, [name])
            return msgspec.convert(client.call("explain", name=name), ExplainReport)
    except msgspec.ValidationError as exc:
        raise CommandError(f"The daemon's report makes no sense here ({exc}): is it another version?", FAILED) from exc
    except CommandError as exc:
        if exc.exit_code != NOT_RUNNING:
            raise
    return report_from_files(home, name)


def report_from_files(home: Home, name: str) -> ExplainReport:
    """The report without a daemon: last known state, event history and log."""
    from stigmerd.adapters.output import tail_lines

    components = last_known(home).components
    if not components:
        raise not_running(home)
    check_names([name], [component.name for component in components])
    component = next(component for component in components if component.name == name)
    tail = [raw.decode("utf-8", "backslashreplace") for raw in tail_lines(component.log, TAIL_LINES)]
    report = build_report(component, components, read_events(home), tail, time.time())
    note = "The daemon is not running: nothing happens by itself until it is started."
    return msgspec.structs.replace(report, next=note, next_start_at=None)


def _with_home(command: str, home: Home) -> str:
    return hint(command, home) if command.startswith("stigmer ") else command


def render_report(report: ExplainReport, *, now: float, command: str, width: int | None = None) -> list[Line]:
    """The report for a reader, most important first. Only the timeline is cut to the width."""
    symbol, style = SYMBOLS.get(report.state, ("?", "busy"))
    name = Span(escape_line(report.component), "strong")
    lines = [line(Span(f"{symbol} ", style), name, " is ", Span(escape_line(report.state), style)), line()]
    lines += _what_happened(report, now)
    if report.timeline:
        lines += [line(), line(Span("What the daemon did", "strong"))]
        lines += [
            cut_line(line(f"  {local_time(moment.at, now)}  {_life(moment.life)}{escape_line(moment.text)}"), width)
            for moment in report.timeline
        ]
    if report.output:
        lines += [line(), line(Span("The end of its output", "strong"))]
        lines += [line(Span("  | ", "off"), escape(text)) for text in report.output]
    lines += [line(), line(Span("What happens next", "strong")), line(f"  {escape_line(report.next)}")]
    lines += [line(), line(Span("Try", "strong")), line(f"  {escape_line(command)}")]
    return [*lines, line(), line(Span(f"log: {escape_line(report.log)}", "off"))]


def _what_happened(report: ExplainReport, now: float) -> list[Line]:
    when = f" ({ago(report.at, now)}, at {local_time(report.at, now)})" if report.at else ""
    lines = [line(Span("What happened", "strong"), when), line(f"  {escape_line(report.happened)}")]
    lines += [line(f"  {escape_line(sentence)}") for sentence in report.evidence]
    if report.blocked_by:
        lines.append(line(f"  It is blocked by {escape_line(report.blocked_by)}."))
    if report.blocks:
        lines.append(line(f"  It blocks {escape_line(', '.join(report.blocks))}."))
    return lines


def _life(number: int | None) -> str:
    return f"life {number}: " if number is not None else ""
