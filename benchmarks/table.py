"""The figures, as a table that can go into a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. ``limit`` is what it is measured against in the same run, where there is such a thing."""

    name: str
    unit: str
    ours: float
    limit: float | None = None
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of the row."""
        limit = "" if self.limit is None else f"{self.limit:.2f}"
        ratio = f"{self.ours / self.limit:.2f}" if self.limit else ""
        return (self.name, self.unit, f"{self.ours:.2f}", limit, ratio, self.note)


HEADER = ("figure", "unit", "stigmerd", "limit", "ratio", "note")


def render(rows: list[Row]) -> str:
    """A Markdown table whose columns are aligned for a terminal too."""
    lines = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
