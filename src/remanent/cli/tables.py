"""Plain tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from remanent.report.text import visible

NOTHING = "–"
LONGEST = 2000


def table(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> Table:
    """Rows under headings; text is shown as it is, never taken for markup or for control characters."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0, style="bold" if number == 0 else "")
    for row in rows:
        made.add_row(*(Text(NOTHING if cell is None else visible(cell, LONGEST)) for cell in row))
    return made
