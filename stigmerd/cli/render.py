"""Turns a status document into styled lines. Pure: the time and the width are arguments.

Everything that came from a child, a probe, a container or a configuration is escaped here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from stigmerd.cli.escape import escape_line
from stigmerd.cli.paint import Line, Span, cells, cut_line, line, pad
from stigmerd.cli.times import ago, duration_text, local_time, parse_rfc3339, size_text
from stigmerd.core.status import ComponentDocument, DaemonDocument, ProbeDocument, StatusDocument

SYMBOLS = {
    "running": ("✓", "good"),
    "starting": ("↻", "busy"),
    "restarting": ("↻", "busy"),
    "waiting": ("↻", "busy"),
    "stopping": ("↻", "busy"),
    "unhealthy": ("✗", "bad"),
    "failed": ("✗✗", "bad"),
    "stopped": ("○", "off"),
    "completed": ("○", "off"),
}

GAP = "  "


class Column(NamedTuple):
    """One column of the table. ``rank`` says who goes first on a narrow screen: the highest."""

    title: str
    rank: int
    cell: Callable[[ComponentDocument, float], Span]


def symbol_of(component: ComponentDocument) -> Span:
    """The symbol and colour of the component's state; grey where that is history."""
    symbol, style = SYMBOLS.get(component.state, ("?", "busy"))
    return Span(symbol, style if component.alive in {None, True} else "off")


def health_of(component: ComponentDocument) -> Span:
    """One word about the component's health, as a reader would say it."""
    if component.alive is not None:
        return Span("alive", "busy") if component.alive else Span("dead", "off")
    if component.state == "stopped":
        return Span("-" if component.enabled else "disabled", "off")
    if component.state == "running":
        return Span("healthy", "good") if component.ready else Span("not ready", "busy")
    if component.healthy:
        return Span("healthy", "good")
    return Span("unhealthy", "bad" if component.state in {"failed", "unhealthy"} else "busy")


def _name(component: ComponentDocument, now: float) -> Span:
    return Span(escape_line(component.name), "strong")


def _state(component: ComponentDocument, now: float) -> Span:
    return Span(escape_line(component.state), symbol_of(component).style)


def _health(component: ComponentDocument, now: float) -> Span:
    return health_of(component)


def _identity(component: ComponentDocument, now: float) -> Span:
    if component.container_id:
        return Span(escape_line(component.container_id[:12]))
    return Span(str(component.pid)) if component.pid is not None else Span("-", "off")


def _uptime(component: ComponentDocument, now: float) -> Span:
    return Span(duration_text(component.uptime)) if component.uptime is not None else Span("-", "off")


def _restarts(component: ComponentDocument, now: float) -> Span:
    return Span(str(component.restarts), "" if component.restarts else "off")


def _last_restart(component: ComponentDocument, now: float) -> Span:
    last = ago(component.last_restart_at, now)
    return Span(last) if last else Span("-", "off")


COLUMNS = (
    Column("NAME", 0, _name),
    Column("STATE", 0, _state),
    Column("HEALTH", 1, _health),
    Column("PID", 3, _identity),
    Column("UPTIME", 4, _uptime),
    Column("RESTARTS", 2, _restarts),
    Column("LAST RESTART", 5, _last_restart),
)
"""The table. The restart count outlives uptime and pid, because it tells of trouble."""


def render_status(
    document: StatusDocument,
    *,
    now: float,
    width: int | None = None,
    verbose: bool = False,
    selected: str | None = None,
) -> list[Line]:
    """The whole answer to ``status``: heading, notes, and a row with its remarks per component."""
    rows = table(document.components, now=now, width=width, verbose=verbose, selected=selected)
    return [*heading(document), line(), *rows]


def heading(document: StatusDocument) -> list[Line]:
    """The verdict, who gives it, and what is wrong with the daemon itself."""
    lines = [_verdict(document)]
    daemon = document.daemon
    if daemon is not None:
        lines.append(line(Span(_daemon_text(daemon), "faint")))
        if daemon.config_stale:
            lines.append(line(Span("! the configuration has changed: stigmer server reload", "busy")))
        lines += [line(Span(f"! {escape_line(problem)}", "busy")) for problem in daemon.problems]
    return lines


def _verdict(document: StatusDocument) -> Line:
    if document.daemon is None:
        alive = [component.name for component in document.components if component.alive]
        rest = f"{_names(alive)} still alive" if alive else "nothing of it is alive"
        return line(Span("✗ not supervised", "bad"), f": last known states, {rest}")
    if not document.components:
        return line(Span("✓ healthy", "good"), ": the stack has no components")
    ailing = [component for component in document.components if not component.healthy]
    if not ailing:
        up = sum(component.state in {"running", "completed"} for component in document.components)
        return line(Span("✓ healthy", "good"), f": {up} of {len(document.components)} up")
    required = [component for component in ailing if not component.optional]
    what = ", ".join(f"{escape_line(c.name)} is {escape_line(c.state)}" for c in required or ailing)
    if not required:
        return line(Span("✓ healthy", "good"), f": but optional {what}")
    coming = all(component.state in {"starting", "waiting", "stopping"} for component in required)
    return line(Span("↻ not yet healthy", "busy") if coming else Span("✗ unhealthy", "bad"), f": {what}")


def _names(names: Sequence[str]) -> str:
    return escape_line(", ".join(names)) + (" is" if len(names) == 1 else " are")


def _daemon_text(daemon: DaemonDocument) -> str:
    source = escape_line(daemon.config) if daemon.config else "the reference stack"
    return f"stigmerd {daemon.version}, pid {daemon.pid}, up {duration_text(daemon.uptime)}, {source}"


def table(
    components: Sequence[ComponentDocument],
    *,
    now: float,
    width: int | None,
    verbose: bool = False,
    selected: str | None = None,
) -> list[Line]:
    """A header, and a row with its remarks per component."""
    if not components:
        return []
    columns, widths = _fit(components, now, width)
    titles = GAP.join(pad(column.title, size) for column, size in zip(columns, widths, strict=True))
    lines: list[Line] = [line("  ", Span(f" {titles}", "off"))]
    rows = zip(*(column.spans for column in columns), strict=True)
    for component, spans in zip(components, rows, strict=True):
        lines.append(_row(component, spans, widths, component.name == selected))
        below = [*remarks(component, now), *(details(component, now) if verbose else _ailing_probes(component))]
        lines += [cut_line(line("     ", *remark), width) for remark in below]
        if component.log and (verbose or component.state == "failed"):
            lines.append(line(Span(f"     log: {escape_line(component.log)}", "off")))  # never cut: to be copied
    return lines


class _Filled(NamedTuple):
    """A column of one table: the spans of all rows, and what they take of a line."""

    title: str
    rank: int
    spans: list[Span]
    width: int

    @classmethod
    def of(cls, column: Column, components: Sequence[ComponentDocument], now: float) -> _Filled:
        spans = [column.cell(component, now) for component in components]
        width = max(cells(column.title), *(cells(span.text) for span in spans))
        return cls(column.title, column.rank, spans, width)


def _fit(
    components: Sequence[ComponentDocument], now: float, width: int | None
) -> tuple[list[_Filled], list[int]]:
    """The columns that fit, and how wide each is; at the very narrowest, the name is cut."""
    shown = list(COLUMNS)
    if not any(component.last_restart_at for component in components):
        shown.pop()
    if any(component.container_id for component in components):
        shown = [c._replace(title="PID/CONTAINER") if c.title == "PID" else c for c in shown]
    columns = [_Filled.of(column, components, now) for column in shown]
    while True:
        widths = [column.width for column in columns]
        excess = 3 + sum(widths) + len(GAP) * (len(columns) - 1) - (width or 10**6)
        victim = max(columns, key=lambda column: column.rank)
        if excess <= 0 or victim.rank == 0:
            widths[0] = max(4, widths[0] - max(0, excess))
            return columns, widths
        columns.remove(victim)


def _row(component: ComponentDocument, texts: Sequence[Span], widths: Sequence[int], selected: bool) -> Line:
    symbol = symbol_of(component)
    spans = [Span(pad(symbol.text, 3), "selected" if selected else symbol.style)]
    gap = Span(GAP, "selected" if selected else "")
    for span, size in zip(texts, widths, strict=True):
        spans += (Span(pad(span.text, size), "selected" if selected else span.style), gap)
    return tuple(spans[:-1])


def remarks(component: ComponentDocument, now: float) -> list[Line]:
    """What a reader has to know beyond the row: what it waits for, why, and its last error."""
    lines = []
    if component.reason and component.reason != component.last_error and component.state != "restarting":
        lines.append(line(escape_line(component.reason)))
    coming = _next_start(component, now)
    if coming:
        lines.append(line(coming))
    if component.last_error:
        at = local_time(component.last_exit.at, now) if component.last_exit else ""
        ill = "bad" if not component.healthy else "off"
        lines.append(line(Span(f"last error{f' at {at}' if at else ''}: ", ill), escape_line(component.last_error)))
    return lines


def _ailing_probes(component: ComponentDocument) -> list[Line]:
    return [_probe_line(probe, None) for probe in component.probes if probe.consecutive_failures]


def _next_start(component: ComponentDocument, now: float) -> str:
    """What comes next, and when: counted down here, where the document's reason is a moment old."""
    if component.state == "waiting" and component.blocked_by is not None and not component.reason:
        return f"waiting for {escape_line(component.blocked_by)}"
    due = parse_rfc3339(component.next_start_at)
    if due is None or component.alive is not None:
        return ""  # nothing is due, or nobody is there to do it
    soon = f"in {duration_text(due - now)}" if due > now else "now"
    if component.state == "failed":
        return f"one trial start {soon}"
    return f"restarts {soon} (attempt {component.restarts_in_window + 1}/{component.max_restarts})"


def details(component: ComponentDocument, now: float) -> list[Line]:
    """What ``--verbose`` adds: probes, budget, usage, command."""
    lines = [_probe_line(probe, now) for probe in component.probes]
    left = max(0, component.max_restarts - component.restarts_in_window)
    facts = [f"life {component.life}", f"{left} of {component.max_restarts} restarts left"]
    if component.backoff is not None:
        facts.append(f"last backoff {component.backoff:g}s")
    if component.adopted:
        facts.append("adopted")
    if component.optional:
        facts.append("optional")
    if component.cpu_percent is not None:
        facts.append(f"cpu {component.cpu_percent:.1f}%")
    if component.memory_bytes is not None:
        facts.append(f"memory {size_text(component.memory_bytes)}")
    lines.append(line(", ".join(facts)))
    if component.started_at:
        lines.append(line(f"started {local_time(component.started_at, now)}"))
    if component.last_restart_at:
        lines.append(line(f"last restart {local_time(component.last_restart_at, now)}"))
    if component.command:
        lines.append(line(f"command: {escape_line(' '.join(component.command))}"))
    return lines


def _probe_line(probe: ProbeDocument, now: float | None) -> Line:
    """One probe; without ``now`` only what is wrong with it."""
    style = {"passing": "good", "failing": "bad"}.get(probe.verdict or "", "busy")
    facts = []
    if probe.duration is not None and now is not None:
        facts.append(_latency(probe))
    if probe.consecutive_failures:
        facts.append(f"{probe.consecutive_failures} failed in a row")
    elif probe.consecutive_successes:
        facts.append(f"{probe.consecutive_successes} passed in a row")
    if probe.last_at and now is not None:
        facts.append(ago(probe.last_at, now))
    if probe.message:
        facts.append(escape_line(probe.message))
    verdict = Span(probe.verdict or "no verdict yet", style)
    handler = f"{escape_line(probe.kind)} {escape_line(probe.handler)}: "
    return line(handler, verdict, "".join(f", {fact}" for fact in facts))


def _latency(probe: ProbeDocument) -> str:
    """The last latency, the life's median and 99th percentile, and the limit they have to keep."""
    parts = [_milliseconds(probe.duration)]
    if probe.duration_p50 is not None:
        parts.append(f"p50 {_milliseconds(probe.duration_p50)}")
    if probe.duration_p99 is not None:
        parts.append(f"p99 {_milliseconds(probe.duration_p99)}")
    limit = f" of {_milliseconds(probe.timeout)}" if probe.timeout is not None else ""
    return " ".join(parts) + limit


def _milliseconds(seconds: float | None) -> str:
    milliseconds = (seconds or 0.0) * 1000
    return f"{milliseconds:.3g}ms" if milliseconds < 999 else f"{milliseconds / 1000:.3g}s"
