"""``explain``: the causal report, from the daemon, or from the files of a dead one."""

from __future__ import annotations

import json
import os
import sys
import time

import msgspec

from stigmerd.adapters.disk.store import Home, read_events
from stigmerd.cli.errors import FAILED, NOT_RUNNING, OK, CommandError
from stigmerd.cli.escape import escape, escape_line
from stigmerd.cli.names import check_names_in_files, configured
from stigmerd.cli.paint import Line, Span, cells, cut_line, line, paint, screen_width, wants_colour
from stigmerd.cli.reach import fetch_status, find_home, hint, not_running, reached
from stigmerd.cli.status import last_known
from stigmerd.cli.table import SYMBOLS
from stigmerd.cli.times import ago, local_time
from stigmerd.core.explain import ExplainReport, build_report
from stigmerd.core.status import ComponentDocument, to_plain


def explain(name: str, *, home: str | None, as_json: bool) -> int:
    """Print the report on one component."""
    place = find_home(home)
    report = fetch_report(place, name)
    if as_json:
        sys.stdout.write(json.dumps(to_plain(report)) + "\n")
        return OK
    print_report(report)
    return OK


def print_report(report: ExplainReport) -> None:
    """Write the report to stdout."""
    lines = render_report(report, now=time.time(), width=screen_width(sys.stdout))
    sys.stdout.write(paint(lines, colour=wants_colour(sys.stdout)))


def fetch_report(home: Home, name: str) -> ExplainReport:
    """The report of a running daemon, else one that is built from what a dead one left; with a command that reaches
    the daemon of this home.

    Raises:
        CommandError: there is no such component, or nothing at all.
    """
    report = _report_of_daemon(home, name) or report_from_files(home, name)
    if not report.command.startswith("stigmer "):
        return report
    return msgspec.structs.replace(report, command=hint(report.command, home))


def _report_of_daemon(home: Home, name: str) -> ExplainReport | None:
    """What the daemon says; None where there is none."""
    try:
        with reached(home) as client:
            fetch_status(client, [name])
            return msgspec.convert(client.call("explain", name=name), ExplainReport)
    except msgspec.ValidationError as exc:
        raise CommandError(f"The daemon's report makes no sense here ({exc}): is it another version?", FAILED) from exc
    except CommandError as exc:
        if exc.exit_code != NOT_RUNNING:
            raise
    return None


def report_from_files(home: Home, name: str) -> ExplainReport:
    """The report without a daemon: last known state, event history and log; the configuration for what it has not
    got yet."""
    from stigmerd.adapters.disk.output import tail_texts

    components = last_known(home).components
    component = next((component for component in components if component.name == name), None)
    if component is None:
        check_names_in_files(home, [name], [component.name for component in components])
        component = _as_configured(home, name)
    report = build_report(
        component, components, read_events(home), lambda count: tail_texts(component.log, count), time.time()
    )
    goes_on = " Its process goes on without supervision." if component.alive else ""
    return msgspec.structs.replace(
        report,
        supervised=False,
        next=f"The daemon is not running: nothing happens by itself until it is started.{goes_on}",
        next_start_at=None,
        command="stigmer server start",
    )


def _as_configured(home: Home, name: str) -> ComponentDocument:
    """A component that no daemon has had yet.

    Raises:
        CommandError: the configuration cannot be read, and nothing is known at all.
    """
    spec = (configured(home) or {}).get(name)
    if spec is None:
        raise not_running(home)
    return ComponentDocument(
        name=name,
        kind=spec.kind,
        state="stopped",
        healthy=True,
        optional=spec.optional,
        enabled=spec.enabled,
        command=spec.display_command,
        log=os.path.join(home.logs, f"{name}.log"),
        max_restarts=spec.restart.max_restarts,
        depends_on={other: condition.value for other, condition in spec.depends_on.items()},
    )


def render_report(report: ExplainReport, *, now: float, width: int | None = None) -> list[Line]:
    """The report for a reader, most important first. The timeline is cut to the width, sentences are wrapped."""
    symbol, style = SYMBOLS.get(report.state, ("?", "busy"))
    style = style if report.supervised else "off"
    name = Span(escape_line(report.component), "strong")
    is_certain = report.supervised or (report.state == "stopped" and not report.timeline)  # the latter never ran
    tense = " is " if is_certain else " was, when the daemon ended, "
    lines = [line(Span(f"{symbol} ", style), name, tense, Span(escape_line(report.state), style)), line()]
    lines += _what_happened(report, now, width)
    if report.timeline:
        lines += [line(), line(Span("What the daemon did", "strong"))]
        lines += [
            cut_line(line(f"  {local_time(moment.at, now)}  {_life(moment.life)}{escape_line(moment.text)}"), width)
            for moment in report.timeline
        ]
    if report.output:
        lines += [line(), line(Span("The end of its output", "strong"))]
        lines += [line(Span("  | ", "off"), escape(text)) for text in report.output]
    due = f" That is at {local_time(report.next_start_at, now)}." if report.next_start_at else ""
    lines += [line(), line(Span("What happens next", "strong")), *_wrapped(report.next + due, width)]
    lines += [line(), line(Span("Try", "strong")), line(f"  {escape_line(report.command)}")]
    return [*lines, line(), line(Span(f"log: {escape_line(report.log)}", "off"))]


def _what_happened(report: ExplainReport, now: float, width: int | None) -> list[Line]:
    when = f" ({ago(report.at, now)}, at {local_time(report.at, now)})" if report.at else ""
    sentences = [report.happened, *report.evidence]
    if report.blocked_by and report.blocked_by not in report.happened:
        sentences.append(f"It is blocked by {report.blocked_by}.")
    if report.blocks:
        sentences.append(f"It blocks {', '.join(report.blocks)}.")
    lines = [line(Span("What happened", "strong"), when)]
    return lines + [text for sentence in sentences for text in _wrapped(sentence, width)]


def _wrapped(sentence: str, width: int | None) -> list[Line]:
    """A sentence, indented, on as many lines as it needs. A word is never cut: it may be a path to copy."""
    rows: list[str] = []
    for word in escape_line(sentence).split(" "):
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and (width is None or cells(longer) + 2 <= width):
            rows[-1] = longer
        else:
            rows.append(word)
    return [line(f"  {row}") for row in rows]


def _life(number: int | None) -> str:
    return f"life {number}: " if number is not None else ""
