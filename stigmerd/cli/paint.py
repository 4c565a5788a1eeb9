"""Styled lines: what the renderers return, and the two ways to bring them to a screen.

A line is a sequence of spans, a span is text with the name of a style. ``paint`` writes them
with or without colour and needs nothing but this module, because ``status`` is asked for often
and rich alone would triple the time it takes; ``to_rich`` hands the same lines to a live display.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {
    "": "",
    "good": "32",
    "busy": "33",
    "bad": "31",
    "off": "90",
    "strong": "1",
    "faint": "2",
    "selected": "7",
    "cyan": "36",
    "magenta": "35",
    "blue": "34",
    "bright_green": "92",
    "bright_yellow": "93",
    "bright_magenta": "95",
    "bright_cyan": "96",
    "bright_blue": "94",
}
"""Styles by name, as parameters of SGR: the sixteen colours that every theme, dark or light, defines."""

_RICH_NAMES = {"good": "green", "busy": "yellow", "bad": "red", "off": "bright_black", "strong": "bold"}
_RICH_NAMES |= {"faint": "dim", "selected": "reverse"}


class Span(NamedTuple):
    """A piece of one line in one style. The text is escaped already."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def line(*parts: str | Span) -> Line:
    """A line of plain texts and spans."""
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts)


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0  # it joins the character before, or is invisible
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text, with an ellipsis at its end where it does not fit into ``width`` columns."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _cells_of(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def cut_middle(text: str, width: int) -> str:
    """The text, with an ellipsis in its middle where it does not fit: its end tells it from others, too."""
    if cells(text) <= width or width < 3 or not text.isascii():
        return cut(text, width)
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def cut_line(spans: Line, width: int | None) -> Line:
    """The line cut to ``width`` columns; None is no limit."""
    if width is None or sum(cells(span.text) for span in spans) <= width:
        return spans
    kept: list[Span] = []
    for span in spans:
        room = width - sum(cells(other.text) for other in kept)
        # The ellipsis is owed whenever anything follows, also where this span itself would just fit.
        text = span.text if cells(span.text) < room else cut(span.text + " ", room)
        kept.append(Span(text, span.style))
        if cells(span.text) >= room:
            break
    return tuple(kept)


def pad(text: str, width: int) -> str:
    """The text, cut or filled up to exactly ``width`` columns."""
    if text.isascii() and len(text) <= width:
        return text.ljust(width)
    text = cut(text, width)
    return text + " " * (width - cells(text))


def paint(lines: Iterable[Line], *, colour: bool) -> str:
    """The lines as text that ends in a newline each."""
    return "".join("".join(_paint_span(span, colour) for span in spans).rstrip() + "\n" for spans in lines)


def _paint_span(span: Span, colour: bool) -> str:
    code = STYLES[span.style] if colour and span.text else ""
    return f"\x1b[{code}m{span.text}\x1b[0m" if code else span.text


def to_rich(lines: Sequence[Line]) -> Text:
    """The lines as one rich text, for a live display."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop", end="")
    for number, spans in enumerate(lines):
        if number:
            text.append("\n")
        for span in spans:
            text.append(span.text, _RICH_NAMES.get(span.style, span.style))
    return text


def wants_colour(stream: IO[str]) -> bool:
    """Whether to colour what goes to a stream: only a terminal, unless NO_COLOR or FORCE_COLOR says else.

    Source: no-color.org, force-color.org.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def screen_width(stream: IO[str]) -> int | None:
    """Columns to fit into: ``COLUMNS``, else the terminal's; None (no limit) for anything else."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return int(columns)
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
