"""A sweep in a terminal: a row a setting."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from remanent.report.sweep_page import headline, spelled
from remanent.report.sweep_view import SettingSummary, SweepView
from remanent.report.terminal import STYLES, WIDE
from remanent.report.text import interval, number, visible
from remanent.report.view import MARKS

FIGURES = ("FA", "RA", "Q-INT4")


def show(view: SweepView, console: Console) -> None:
    """Print the table and the sentence under it."""
    console.print(settings_table(view, console.width))
    console.print(visible(headline(view)), markup=False, highlight=False)


def settings_table(view: SweepView, width: int = WIDE) -> Table:
    """A row for each setting.

    Args:
        width: of the terminal, in columns: a narrow one loses the intervals and the published figures.
    """
    wide = width >= WIDE
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("")
    table.add_column("method", no_wrap=True)
    figures = FIGURES if wide else ()
    for label in (*view.varied, "passes", "seeds", "gap", "retention", *figures, ""):
        table.add_column(visible(label, 16), justify="right", no_wrap=True)
    best = {item.name for item in view.frontier}
    for item in view.settings:
        mark = "*" if item.name == view.chosen else "·" if item.name in best else " "
        cells = [f"{item.number}{mark}", item.method, *(spelled(item, name) for name in view.varied)]
        cells += [f"{item.passes:,}", f"{len(item.seeds)}/{len(item.rows)}", *_figures(item, wide)]
        cells += [number(item.mean("published", name), 3) for name in figures]
        verdict = Text(MARKS[item.verdict], STYLES[item.verdict]) if item.verdict else Text("✕")
        table.add_row(*(Text(visible(cell, 40)) for cell in cells), verdict)
    caption = "gap: nats below the control at the worst precision; retention: there; * chosen, · on the frontier"
    table.caption, table.caption_justify = caption, "left"
    return table


def _figures(item: SettingSummary, wide: bool) -> list[str]:
    found = []
    for estimate in (item.gap, item.retention):
        text = number(estimate.value) if estimate else "–"
        if estimate and wide:
            text = f"{text} {interval(estimate.low, estimate.high)}".rstrip()
        found.append(text)
    return found
