"""The table of ``status``: which columns fit a screen, and what stands in them. Pure.

Whatever the width, a row tells the name and the state. Names are cut in the middle, where those of
one stack differ least, and only once that saves a column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from stigmerd.cli.escape import escape_line
from stigmerd.cli.paint import Line, Span, cells, cut_middle, line, pad
from stigmerd.cli.times import ago, duration_text
from stigmerd.core.status import ComponentDocument

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
MARGIN = 3
"""Columns for the symbol."""

NAME_KEPT = 28
"""Columns of a name that no other column is worth; at the very narrowest there are fewer."""

NAME_LEAST = 4


WAS_UP = frozenset({"starting", "running", "unhealthy", "stopping"})
"""The states of a life. Without a daemon, it may have ended since."""


def symbol_of(component: ComponentDocument) -> Span:
    """The symbol and colour of the component's state; grey where that is history, and none of what has died since."""
    symbol, style = SYMBOLS.get(component.state, ("?", "busy"))
    if component.alive is False and component.state in WAS_UP:
        symbol, _ = SYMBOLS["stopped"]
    return Span(symbol, style if component.alive in {None, True} else "off")


def health_of(component: ComponentDocument) -> Span:
    """One word about the component's health, as a reader would say it."""
    if component.alive is not None:
        return Span("alive", "busy") if component.alive else Span("dead" if component.state in WAS_UP else "-", "off")
    if component.state == "stopped":
        return Span("-" if component.enabled else "disabled", "off")
    if component.state == "running":
        return Span("healthy", "good") if component.ready else Span("not ready", "busy")
    if component.healthy:
        return Span("healthy", "good")
    return Span("unhealthy", "bad" if component.state in {"failed", "unhealthy"} else "busy")


class Column(NamedTuple):
    """One column of the table."""

    title: str
    cell: Callable[[ComponentDocument, float], Span]


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


def _restarts_and_last(component: ComponentDocument, now: float) -> Span:
    count, last = _restarts(component, now), ago(component.last_restart_at, now)
    return Span(f"{count.text} ({last})" if last else count.text, count.style)


NAME = Column("NAME", _name)
STATE = Column("STATE", _state)
HEALTH = Column("HEALTH", _health)
PID = Column("PID", _identity)
PID_OR_CONTAINER = Column("PID/CONTAINER", _identity)
UPTIME = Column("UPTIME", _uptime)
RESTARTS = Column("RESTARTS", _restarts)
LAST_RESTART = Column("LAST RESTART", _last_restart)
RESTARTS_AND_LAST = Column("RESTARTS", _restarts_and_last)

LAYOUTS: tuple[tuple[Column, ...], ...] = (
    (NAME, STATE, HEALTH, PID, UPTIME, RESTARTS, LAST_RESTART),
    (NAME, STATE, HEALTH, PID, UPTIME, RESTARTS_AND_LAST),
    (NAME, STATE, HEALTH, PID, RESTARTS_AND_LAST),
    (NAME, STATE, HEALTH, RESTARTS_AND_LAST),
    (NAME, STATE, HEALTH, RESTARTS),
    (NAME, STATE, HEALTH),
    (NAME, STATE),
)
"""From the widest to the narrowest: restarts outlive uptime and pid, because they tell of trouble."""


class Table(NamedTuple):
    """The columns that fit, and how wide each is."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    now: float

    @classmethod
    def fitting(cls, components: Sequence[ComponentDocument], now: float, width: int | None) -> Table:
        """The widest table of these components, of which there is at least one, that a screen has room for."""
        for layout in LAYOUTS:
            columns = _suited(layout, components)
            widths = [_width_of(column, components, now) for column in columns]
            excess = MARGIN + sum(widths) + len(GAP) * (len(columns) - 1) - (width or 10**6)
            least = NAME_LEAST if layout is LAYOUTS[-1] else min(widths[0], NAME_KEPT)
            if widths[0] - excess >= least:
                break
        return cls(columns, (max(least, widths[0] - max(0, excess)), *widths[1:]), now)

    def header(self) -> Line:
        """The titles."""
        titles = GAP.join(pad(column.title, size) for column, size in zip(self.columns, self.widths, strict=True))
        return line(" " * MARGIN, Span(titles, "off"))

    def row(self, component: ComponentDocument, *, selected: bool = False) -> Line:
        """One component."""
        symbol = symbol_of(component)
        spans = [Span(pad(symbol.text, MARGIN), "selected" if selected else symbol.style)]
        for column, size in zip(self.columns, self.widths, strict=True):
            text, style = column.cell(component, self.now)
            fitted = pad(cut_middle(text, size) if column is NAME else text, size)
            spans.append(Span(fitted, "selected" if selected else style))
            spans.append(Span(GAP, "selected" if selected else ""))
        return tuple(spans[:-1])


def _suited(layout: Sequence[Column], components: Sequence[ComponentDocument]) -> tuple[Column, ...]:
    """The layout without a column in which nothing would stand, and titled for what does."""
    has_restarted = any(component.last_restart_at for component in components)
    has_container = any(component.container_id for component in components)
    columns = [column for column in layout if column is not LAST_RESTART or has_restarted]
    return tuple(PID_OR_CONTAINER if column is PID and has_container else column for column in columns)


def _width_of(column: Column, components: Sequence[ComponentDocument], now: float) -> int:
    return max(cells(column.title), *(cells(column.cell(component, now).text) for component in components))
