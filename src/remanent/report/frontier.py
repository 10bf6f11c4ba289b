"""The frontier of a sweep: what each setting leaves of the forgotten against what it keeps."""

from __future__ import annotations

import math
from typing import Any

from remanent.report.figures import INK, MARKERS, PAPER, SIZE, SOFT, Handles, add_legend, ends_of, new_figure
from remanent.report.svg import ROLES, to_svg
from remanent.report.sweep_view import SettingSummary, SweepView
from remanent.report.text import number, visible

NUMBERED = 16  # settings that all bear their number; of more, only those on the frontier do
ROOM = 0.12
RING: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": INK, "color": INK}


def frontier_chart(view: SweepView, name: str) -> str | None:
    """Forget gap at the worst precision against retention there, a mark a setting, with intervals over seeds.

    The small dots are the seeds; the line joins the settings that no other beats; the shaded corner is what is asked
    for. None where no trial has both figures.

    Args:
        name: prefix of the ids, unique in the page.
    """
    placed = [item for item in view.settings if item.gap and item.retention]
    if not placed:
        return None
    best = view.frontier
    methods = list(dict.fromkeys(item.method for item in placed))
    figure, axes = new_figure(3.5, left=0.11, bottom=0.46, top=0.2 + 0.17 * math.ceil((len(methods) + 4) / 3))
    shown = [*placed, *([view.fresh] if view.fresh and view.fresh.gap and view.fresh.retention else [])]
    _limits(axes, shown, view)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.fill_between([left, view.epsilon], view.upsilon, top, color=ROLES["retain"], alpha=0.1, linewidth=0)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    dashed: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (4, 2))}
    axes.axvline(view.epsilon, **dashed)
    axes.axhline(view.upsilon, **dashed)
    line = [(item.gap.value, item.retention.value) for item in best if item.gap and item.retention]
    if line:
        axes.plot(
            *zip(*line, strict=True), color=INK, linewidth=1.3, drawstyle="steps-post", zorder=2.2, gid="frontier"
        )
    for item in placed:
        place = methods.index(item.method)
        _mark(axes, item, ROLES[f"run-{place % 6 + 1}"], MARKERS[place % 6], item.name == view.chosen)
        if len(placed) <= NUMBERED or item in best:
            _number(axes, item)
    if len(shown) > len(placed):
        _mark(axes, shown[-1], INK, "*", False)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xlabel("forget gap at the worst precision, nats  (left: forgotten)")
    axes.set_ylabel("retention there")
    handles: Handles = [
        (visible(method, 22), {"color": ROLES[f"run-{place % 6 + 1}"], "marker": MARKERS[place % 6], "linestyle": ""})
        for place, method in enumerate(methods)
    ]
    handles.append(("frontier", {"color": INK, "linewidth": 1.3}))
    if view.chosen is not None:
        handles.append(("chosen", {**RING, "markersize": 8, "linestyle": ""}))
    if len(shown) > len(placed):
        handles.append(("chosen, fresh seeds", {"color": INK, "marker": "*", "linestyle": ""}))
    handles.append(("asked for: shaded", dashed))
    add_legend(figure, handles)
    return to_svg(figure, name, "Forgotten against kept, each setting at its worst precision", _described(view, placed))


def _limits(axes: Any, items: list[SettingSummary], view: SweepView) -> None:
    """Room for every mark, seed and threshold; an interval of few seeds may be cut off rather than squeeze the rest."""
    points = [
        (row["forget_gap"]["value"], row["retention"]["value"])
        for item in items
        for row in item.rows
        if row["status"] == "done" and row["forget_gap"] and row["retention"]
    ]
    xs = [x for x, _ in points] + [0.0, view.epsilon]
    ys = [y for _, y in points] + [view.upsilon, 1.0]
    for values, put in ((xs, axes.set_xlim), (ys, axes.set_ylim)):
        low, high = min(values), max(values)
        room = ROOM * max(high - low, 0.2)
        put(low - room, high + room)


def _mark(axes: Any, item: SettingSummary, colour: str, marker: str, chosen: bool) -> None:
    if item.gap is None or item.retention is None:
        return
    x, y = item.gap, item.retention
    for row in item.rows if len(item.seeds) > 1 else ():
        if row["status"] == "done":
            axes.plot(row["forget_gap"]["value"], row["retention"]["value"], ".", color=colour, markersize=4, alpha=0.8)
    axes.plot(ends_of(x), [y.value] * 2, color=colour, linewidth=1.1, alpha=0.4)
    axes.plot([x.value] * 2, ends_of(y), color=colour, linewidth=1.1, alpha=0.4)
    axes.plot(
        x.value, y.value, marker, color=colour, markersize=11 if marker == "*" else 7, markeredgecolor=PAPER, zorder=3,
        gid=f"setting-{item.number}" if marker != "*" else "fresh",
    )  # fmt: skip
    if chosen:
        axes.plot(x.value, y.value, markersize=13, linestyle="", gid="chosen", **RING)


def _number(axes: Any, item: SettingSummary) -> None:
    if item.gap is not None and item.retention is not None:
        axes.annotate(
            str(item.number), (item.gap.value, item.retention.value), (5, 4), "data", "offset points", fontsize=SIZE,
            color=INK, zorder=4,
        )  # fmt: skip


def _described(view: SweepView, placed: list[SettingSummary]) -> str:
    best = {item.name for item in view.frontier}
    parts = [
        f"{item.number} {item.method}: gap {number(item.gap.value)} nats, retention {number(item.retention.value)}"
        + (", on the frontier" if item.name in best else "")
        + (", chosen" if item.name == view.chosen else "")
        for item in placed
        if item.gap and item.retention
    ]
    return visible("; ".join(parts))
