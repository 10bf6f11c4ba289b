"""A sweep in a terminal: a row a setting."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from remanent.core.estimate import Estimate
from remanent.report.sweep_page import headline, spelled
from remanent.report.sweep_view import SweepView
from remanent.report.terminal import STYLES, WIDE
from remanent.report.text import interval, number, visible
from remanent.report.view import MARKS

FIGURES = ("FA", "RA", "Q-INT4")


def show(view: SweepView, console: Console) -> None:
    """Print the table and the sentences under it."""
    unbounded = console.options.update(width=1000)
    for width, both in ((console.width, True), (console.width, False), (0, False)):
        table = settings_table(view, width, both)
        if console.measure(table, options=unbounded).maximum <= console.width:
            break  # else columns would be pushed out, the one that names a line among them
    console.print(table)
    if view.hypervolume is not None:
        console.print(f"Hypervolume of the frontier: {number(view.hypervolume)}", markup=False, highlight=False)
    console.print(visible(headline(view)), markup=False, highlight=False)


def settings_table(view: SweepView, width: int = WIDE, both: bool = True) -> Table:
    """A row for each reference and each setting.

    Args:
        width: of the terminal, in columns: a narrow one loses the intervals and the published figures.
        both: with the harmonic mean of what is forgotten and what is kept.
    """
    wide = width >= WIDE
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("")
    table.add_column("method", no_wrap=True)
    figures = FIGURES if wide and view.kind == "sweep" else ()
    varied = view.varied if view.kind == "sweep" else ()
    costs = ("s", "MB") if view.kind == "compare" else ()
    attacked = ("attacked",) if any(item.attacked_gap for item in view.settings) else ()
    mean = ("both",) if both else ()
    labels = ("passes", "seeds", "forget", "unseen", "gap", *attacked, "retention", *mean, *costs, *figures, "")
    for label in (*varied, *labels):
        table.add_column(visible(label, 16), justify="right", no_wrap=True)
    best = {item.name for item in view.frontier}
    for item in [*view.references, *view.settings]:
        reference = item in view.references
        mark = "*" if item.name == view.chosen else "·" if item.name in best else " "
        cells = ["" if reference else f"{item.number}{mark}", item.method, *(spelled(item, name) for name in varied)]
        cells += [f"{item.passes:,}", f"{len(item.seeds)}/{len(item.rows)}"] if item.rows else ["–", "–"]
        cells += [number(item.forget_nll), number(item.control_nll), _estimate(item.gap, wide)]
        cells += [_estimate(item.attacked_gap, wide)] if attacked else []
        cells.append(_estimate(item.retention, wide))
        cells += [number(view.harmonic_mean(item))] if both else []
        cells += [number(item.seconds, 1), _megabytes(item.peak_memory)] if costs else []
        cells += [number(item.mean("published", name), 3) for name in figures]
        verdict = Text(MARKS[item.verdict], STYLES[item.verdict]) if item.verdict else Text("✕" if item.rows else "")
        table.add_row(*(Text(visible(cell, 40)) for cell in cells), verdict)
    caption = "nats, at the worst precision; gap: forget below unseen; retention: there; * chosen, · on the frontier"
    caption += "; both: harmonic mean of the share of the gap that is gone and retention" if both else ""
    table.caption, table.caption_justify = caption, "left"
    return table


def _estimate(estimate: Estimate | None, wide: bool) -> str:
    text = number(estimate.value) if estimate else "–"
    return f"{text} {interval(estimate.low, estimate.high)}".rstrip() if estimate and wide else text


def _megabytes(count: int | None) -> str:
    return number(None if count is None else count / 1e6, 0)
