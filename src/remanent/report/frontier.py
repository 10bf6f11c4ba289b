"""The frontier of a sweep or a comparison: what each setting leaves of the forgotten against what it keeps."""

from __future__ import annotations

import math
from typing import Any

from remanent.report.figures import INK, MARKERS, PAPER, SIZE, SOFT, Handles, add_legend, ends_of, new_figure
from remanent.report.svg import ROLES, to_svg
from remanent.report.sweep_view import SettingSummary, SweepView
from remanent.report.text import number, visible

NUMBERED = 16  # settings that all bear their number; of more, only those on the frontier do
ROOM = 0.12
FURTHEST = (-1.5, -0.25)  # gap and retention, at the left and at the bottom: what lies beyond stands at the edge
OPEN = ("s", "D", "X", "P")  # of the references, in their order
RING: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": INK, "color": INK}


def frontier_chart(view: SweepView, name: str) -> str | None:
    """Forget gap at the worst precision against retention there, a mark a setting, with intervals over seeds.

    The small dots are the seeds; the line joins the settings that no other beats; the shaded corner is what is asked
    for; open marks are references. What is far too much forgotten or hardly kept stands at the edge, as an arrowhead.
    None where no trial has both figures.

    Args:
        name: prefix of the ids, unique in the page.
    """
    placed = [item for item in view.settings if item.gap and item.retention]
    if not placed:
        return None
    best = view.frontier
    methods = list(dict.fromkeys(item.method for item in placed))
    references = [item for item in view.references if item.gap and item.retention]
    top = 0.2 + 0.17 * math.ceil((len(methods) + len(references) + 4) / 3)
    figure, axes = new_figure(2.96 + top, left=0.175, bottom=0.46, top=top)
    shown = [*placed, *([view.fresh] if view.fresh and view.fresh.gap and view.fresh.retention else [])]
    _limits(axes, [*shown, *references], view)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.fill_between([left, view.epsilon], view.upsilon, top, color=ROLES["retain"], alpha=0.1, linewidth=0)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    dashed: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (4, 2))}
    axes.axvline(view.epsilon, **dashed)
    axes.axhline(view.upsilon, **dashed)
    line = [_place(item.gap.value, item.retention.value)[:2] for item in best if item.gap and item.retention]
    if line:
        axes.plot(
            *zip(*line, strict=True), color=INK, linewidth=1.3, drawstyle="steps-post", zorder=2.2, gid="frontier"
        )
    for item in placed:
        place = methods.index(item.method)
        _mark(axes, item, *_look(place), item.name == view.chosen)
        if len(placed) <= NUMBERED or item in best:
            _number(axes, item)
    if len(shown) > len(placed):
        _mark(axes, shown[-1], INK, "*", False)
    for marker, item in zip(OPEN, references, strict=False):
        _mark(axes, item, INK, marker, False, filled=False)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xlabel("forget gap at the worst precision, nats  (left: forgotten)")
    axes.set_ylabel("retention there")
    handles: Handles = [
        (visible(method, 22), dict(zip(("color", "marker"), _look(place), strict=True)) | {"linestyle": ""})
        for place, method in enumerate(methods)
    ]
    handles += [
        (visible(item.method, 22), {"color": INK, "marker": marker, "markerfacecolor": PAPER, "linestyle": ""})
        for marker, item in zip(OPEN, references, strict=False)
    ]
    handles.append(("frontier", {"color": INK, "linewidth": 1.3}))
    if view.chosen is not None:
        handles.append(("chosen", {**RING, "markersize": 8, "linestyle": ""}))
    if len(shown) > len(placed):
        handles.append(("chosen, fresh seeds", {"color": INK, "marker": "*", "linestyle": ""}))
    handles.append(("asked for: shaded", dashed))
    add_legend(figure, handles)
    return to_svg(figure, name, "Forgotten against kept, each setting at its worst precision", _described(view, placed))


def _look(place: int) -> tuple[str, str]:
    """Colour and marker: 36 that differ."""
    return ROLES[f"run-{place % 6 + 1}"], MARKERS[(place + place // 6) % 6]


def _place(gap: float, retention: float) -> tuple[float, float, str | None]:
    """Where a mark stands, and the head of an arrow where that is the edge."""
    beyond = "<" if gap < FURTHEST[0] else "v" if retention < FURTHEST[1] else None
    return max(gap, FURTHEST[0]), max(retention, FURTHEST[1]), beyond


def _limits(axes: Any, items: list[SettingSummary], view: SweepView) -> None:
    """Room for every mark, seed and threshold; an interval of few seeds may be cut off rather than squeeze the rest."""
    points = [
        _place(row["forget_gap"]["value"], row["retention"]["value"])
        for item in items
        for row in item.rows
        if row["status"] == "done" and row["forget_gap"] and row["retention"]
    ]
    points += [_place(item.gap.value, item.retention.value) for item in items if item.gap and item.retention]
    xs = [x for x, _, _ in points] + [0.0, view.epsilon]
    ys = [y for _, y, _ in points] + [view.upsilon, 1.0]
    for values, put in ((xs, axes.set_xlim), (ys, axes.set_ylim)):
        low, high = min(values), max(values)
        room = ROOM * max(high - low, 0.2)
        put(low - room, high + room)


def _mark(axes: Any, item: SettingSummary, colour: str, marker: str, chosen: bool, *, filled: bool = True) -> None:
    if item.gap is None or item.retention is None:
        return
    x, y = item.gap, item.retention
    for row in item.rows if len(item.seeds) > 1 else ():
        if row["status"] == "done":
            left, up, _ = _place(row["forget_gap"]["value"], row["retention"]["value"])
            axes.plot(left, up, ".", color=colour, markersize=4, alpha=0.8)
    left, up, beyond = _place(x.value, y.value)
    axes.plot(ends_of(x), [up] * 2, color=colour, linewidth=1.1, alpha=0.4)
    axes.plot([left] * 2, ends_of(y), color=colour, linewidth=1.1, alpha=0.4)
    axes.plot(
        left, up, beyond or marker, color=colour, markersize=11 if marker == "*" else 7, zorder=3,
        markeredgecolor=PAPER if filled else colour, **({} if filled else {"markerfacecolor": PAPER}),
        gid=("fresh" if marker == "*" else f"setting-{item.number}") if filled else f"reference-{item.name}",
    )  # fmt: skip
    if chosen:
        axes.plot(left, up, markersize=13, linestyle="", gid="chosen", **RING)


def _number(axes: Any, item: SettingSummary) -> None:
    if item.gap is not None and item.retention is not None:
        axes.annotate(
            str(item.number), _place(item.gap.value, item.retention.value)[:2], (5, 4), "data", "offset points",
            fontsize=SIZE, color=INK, zorder=4,
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
    parts += [
        f"reference {item.method}: gap {number(item.gap.value)} nats, retention {number(item.retention.value)}"
        for item in view.references
        if item.gap and item.retention
    ]
    return visible("; ".join(parts))
