"""Draws what a terminal was sent as a small SVG: text, the sixteen colours, bold, faint and reverse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from stigmerd.cli.paint import cells

CELL, ROW, EDGE = 8.4, 19, 14
"""Pixels: the width of a column and the height of a row at 14 px, and the margin around the text."""

CODES = re.compile(r"\x1b\[([0-9;]*)m")
WORDS = re.compile(r"\S+(?: \S+)*")
"""Text up to a gap: each piece has a place of its own, whatever font the reader has."""

STYLES = """
rect { fill: #1c1f26; rx: 8px } .r { fill: #d8dee9; rx: 0 } text { fill: #d8dee9; font: 14px monospace }
.c1 { font-weight: bold } .c2, .c90 { fill: #8b93a3 } .c7 { fill: #1c1f26 }
.c31, .c91 { fill: #f07178 } .c32, .c92 { fill: #a5d16d } .c33, .c93 { fill: #f2c55c } .c34, .c94 { fill: #79a8f2 }
.c35, .c95 { fill: #cf9ce6 } .c36, .c96 { fill: #6cc7c7 }
"""


class Piece(NamedTuple):
    """Some text of one row, with the column where it begins and its SGR parameter."""

    column: int
    text: str
    code: str


def picture(lines: list[str], columns: int) -> str:
    """The SVG of rows of text with SGR sequences."""
    width, height = round(columns * CELL + 2 * EDGE), len(lines) * ROW + 2 * EDGE
    drawn = "\n".join(element for number, line in enumerate(lines) for element in _row(line, number))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<style>{STYLES}</style>\n<rect width="{width}" height="{height}"/>\n{drawn}\n</svg>\n'
    )


def _row(line: str, number: int) -> Iterator[str]:
    for column, text, code in _pieces(line):
        x, y = EDGE + column * CELL, EDGE + number * ROW
        if code == "7":
            yield f'<rect class="r" x="{x:.1f}" y="{y}" width="{cells(text) * CELL + 0.6:.1f}" height="{ROW}"/>'
        kind = f' class="c{code}"' if code else ""
        for word in WORDS.finditer(text):
            at = x + cells(text[: word.start()]) * CELL
            place = f'x="{at:.1f}" y="{y + 14}" textLength="{cells(word.group()) * CELL:.1f}"'
            yield f"<text{kind} {place}>{escape(word.group(), quote=False)}</text>"


def _pieces(line: str) -> Iterator[Piece]:
    column, code = 0, ""
    for number, part in enumerate(CODES.split(line)):
        if number % 2:
            code = "" if part in {"", "0"} else part.split(";")[-1]
        elif part:
            yield Piece(column, part, code)
            column += cells(part)
