"""Plain tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from remanent.report.text import visible

NOTHING = "–"
Answers = tuple[str, Sequence[tuple[str, str | None]]]  # question, (who answers, the answer)
LONGEST = 2000


def table(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> Table:
    """Rows under headings; text is shown as it is, never taken for markup or for control characters."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0, style="bold" if number == 0 else "")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(text: str | None) -> Text:
    return Text(NOTHING if text is None else visible(text, LONGEST))


def answers(asked: Iterable[Answers]) -> Group:
    """Questions, and under each its answers over the whole width: side by side they would be a word wide."""
    blocks: list[RenderableType] = []
    for question, given in asked:
        made = Table.grid(padding=(0, 2))
        made.add_column(no_wrap=True, style="dim")
        made.add_column(overflow="fold")
        for who, answer in given:
            made.add_row(_cell(f"  {who}"), _cell(answer))
        blocks += [Text(visible(question, LONGEST), style="bold"), made, Text("")]
    return Group(*blocks)
