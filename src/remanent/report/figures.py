"""What every plot shares: figures of fixed margins in the page's colours, intervals, legends."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from remanent.core.estimate import Estimate
from remanent.report.svg import ROLES

INK, SOFT, RULE, PAPER = (ROLES[role] for role in ("ink", "soft", "rule", "paper"))
WIDTH = 4.5  # inches of 72 px: a phone's width, so that a plot shrinks little there
Handles = list[tuple[str, dict[str, Any]]]
SIZE = 8.5
LEGEND_COLUMNS = 3
MARKERS = ("o", "s", "D", "^", "v", "P")
LINES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), (0, (8, 2)))


def new_figure(height: float, *, left: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """A figure of fixed margins: `left` a share of the width, `bottom` and `top` in inches."""
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    axes = figure.add_axes((left, bottom / height, 0.98 - left, 1 - (bottom + top) / height), facecolor="none")
    style(axes)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


def style(axes: Axes) -> None:
    """The page's colours and sizes on axes."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
        axes.spines[side].set_linewidth(0.7)
    axes.tick_params(colors=INK, labelsize=SIZE, width=0.7, length=3, color=SOFT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(SOFT)
        label.set_fontsize(SIZE)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def ends_of(estimate: Estimate) -> tuple[float, float]:
    """Both ends of an interval; the value itself where an end is open."""
    low = estimate.value if estimate.low is None else estimate.low
    return low, estimate.value if estimate.high is None else estimate.high


def add_legend(figure: Figure, handles: Handles, columns: int = LEGEND_COLUMNS) -> None:
    """A legend above the plot, in so many columns."""
    drawn = [Line2D([], [], **{"linewidth": 1.4, "markersize": 5, **style}) for _, style in handles]
    legend = figure.legend(
        drawn, [label for label, _ in handles], loc="upper left", bbox_to_anchor=(0, 1), ncols=columns,
        frameon=False, fontsize=SIZE, labelcolor=INK, handlelength=1.9, handletextpad=0.5, columnspacing=1.2,
        labelspacing=0.25, borderpad=0.1,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
