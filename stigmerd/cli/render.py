"""Turns a status document into styled lines. Pure: the time and the width are arguments.

Everything that came from a child, a probe, a container or a configuration is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence

from stigmerd.cli.escape import escape_line
from stigmerd.cli.paint import Line, Span, cells, cut_line, line
from stigmerd.cli.table import Table
from stigmerd.cli.times import ago, duration_text, local_time, parse_rfc3339, size_text
from stigmerd.core.status import ComponentDocument, DaemonDocument, ProbeDocument, StatusDocument

URGENCY = ("failed", "unhealthy", "restarting", "waiting", "starting", "stopping")
"""The states that are not healthy, worst first."""

HEADING_WIDTH = 200
"""Columns that the verdict may take where the screen sets no limit."""

INDENT = "     "

NARROW_MARGIN = 0.25
"""Of a probe's limit: a life whose slowest attempts come closer to it will soon fail by it."""


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
    return [*heading(document, width), line(), *rows]


def heading(document: StatusDocument, width: int | None = None) -> list[Line]:
    """The verdict, who gives it, and what is wrong with the daemon itself, which is never cut."""
    lines = [_verdict(document, width)]
    daemon = document.daemon
    if daemon is not None:
        lines.append(cut_line(line(Span(_daemon_text(daemon), "faint")), width))
        if daemon.config_stale:
            lines.append(line(Span("! the configuration has changed: stigmer server reload", "busy")))
        lines += [line(Span(f"! {escape_line(problem)}", "busy")) for problem in daemon.problems]
    return lines


def _verdict(document: StatusDocument, width: int | None) -> Line:
    if document.daemon is None:
        alive = [escape_line(component.name) for component in document.components if component.alive]
        verdict = Span("✗ not supervised", "bad")
        return _listing(verdict, "last known states, still alive: ", alive or ["nothing"], width)
    if not document.components:
        return line(Span("✓ healthy", "good"), ": the stack has no components")
    ailing = [component for component in document.components if not component.healthy]
    if not ailing:
        return line(Span("✓ healthy", "good"), f": {_count(document.components)}")
    required = [component for component in ailing if not component.optional]
    worst_first = sorted(required or ailing, key=_urgency)
    what = [f"{escape_line(component.name)} is {escape_line(component.state)}" for component in worst_first]
    if document.healthy:
        return _listing(Span("✓ healthy", "good"), "but optional ", what, width)
    coming = all(component.state in {"starting", "waiting", "stopping"} for component in required or ailing)
    verdict = Span("↻ not yet healthy", "busy") if coming else Span("✗ unhealthy", "bad")
    return _listing(verdict, "", what, width)


def _count(components: Sequence[ComponentDocument]) -> str:
    """How many are up, not yet ready, and down as they are to be."""
    down = sum(component.state == "stopped" for component in components)
    unready = sum(component.state == "running" and not component.ready for component in components)
    up = len(components) - down
    counts = [f"{up} of {up} up", f"{unready} not ready" if unready else "", f"{down} stopped" if down else ""]
    return ", ".join(filter(None, counts))


def _urgency(component: ComponentDocument) -> int:
    return URGENCY.index(component.state) if component.state in URGENCY else len(URGENCY)


def _listing(verdict: Span, before: str, items: Sequence[str], width: int | None) -> Line:
    """The verdict and as many of its reasons as fit: the rows below tell the others."""
    room = (width or HEADING_WIDTH) - cells(verdict.text) - 2
    text = f"{before}{items[0]}"
    for number, item in enumerate(items[1:], 1):
        longer, rest = f"{text}, {item}", len(items) - number - 1
        if cells(longer + (f" and {rest} more" if rest else "")) > room:
            text += f" and {rest + 1} more"
            break
        text = longer
    return cut_line(line(verdict, f": {text}"), width)


def _daemon_text(daemon: DaemonDocument) -> str:
    source = escape_line(daemon.config) if daemon.config else "the reference stack"
    return f"stigmerd {escape_line(daemon.version)}, pid {daemon.pid}, up {duration_text(daemon.uptime)}, {source}"


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
    fitted = Table.fitting(components, now, width)
    lines = [fitted.header()]
    for component in components:
        lines.append(fitted.row(component, selected=component.name == selected))
        lines += below(component, now, width, verbose=verbose)
    return lines


def below(component: ComponentDocument, now: float, width: int | None, *, verbose: bool = False) -> list[Line]:
    """What stands under the component's row. A path is never cut: it is there to be copied."""
    more = details(component, now) if verbose else _ailing_probes(component)
    lines = [cut_line(line(INDENT, *remark), width) for remark in [*remarks(component, now), *more]]
    if component.log and (verbose or component.state == "failed"):
        lines.append(line(Span(f"{INDENT}log: {escape_line(component.log)}", "off")))
    return lines


def remarks(component: ComponentDocument, now: float) -> list[Line]:
    """What a reader has to know beyond the row: what it waits for, why, and its last error."""
    lines = []
    reason = _without_error(component)
    if reason and component.state != "restarting":
        lines.append(line(escape_line(reason)))
    coming = _next_start(component, now)
    if coming:
        lines.append(line(coming))
    if component.last_error:
        at = local_time(component.last_exit.at, now) if component.last_exit else ""
        ill = "bad" if not component.healthy else "off"
        lines.append(line(Span(f"last error{f' at {at}' if at else ''}: ", ill), escape_line(component.last_error)))
    return lines


def _without_error(component: ComponentDocument) -> str:
    """The reason of the present state less the last error, which has a line of its own."""
    if not component.last_error:
        return component.reason
    return component.reason.replace(component.last_error, "").strip(" :;,")


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
    lines = [text for probe in component.probes for text in (_probe_line(probe, now), *_latency(probe))]
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


def _latency(probe: ProbeDocument) -> list[Line]:
    """The last latency, the life's median and 99th percentile, and how far that is from the limit."""
    if probe.duration is None:
        return []
    parts = [f"  latency {_milliseconds(probe.duration)}"]
    if probe.duration_p50 is not None:
        parts.append(f"p50 {_milliseconds(probe.duration_p50)}")
    if probe.duration_p99 is None or probe.timeout is None:
        return [line(", ".join(parts))]
    parts.append(f"p99 {_milliseconds(probe.duration_p99)}, ")
    margin = max(0.0, probe.timeout - probe.duration_p99)
    style = "busy" if margin < NARROW_MARGIN * probe.timeout else ""
    return [line(", ".join(parts), Span(f"margin {_milliseconds(margin)} of {_milliseconds(probe.timeout)}", style))]


def _milliseconds(seconds: float | None) -> str:
    milliseconds = (seconds or 0.0) * 1000
    if milliseconds < 0.05:
        return "<0.1ms"
    return f"{milliseconds:.3g}ms" if milliseconds < 999 else f"{milliseconds / 1000:.3g}s"
