"""The report's plots. Every series has a colour, a shape and a line of its own: no one has to tell hues apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remanent.auditing.evidence import CONTROL, FORGET, PARAPHRASED, RETAIN
from remanent.core.estimate import Estimate
from remanent.report.figures import (
    INK,
    LEGEND_COLUMNS,
    LINES,
    MARKERS,
    PAPER,
    RULE,
    SIZE,
    SOFT,
    Handles,
    add_legend,
    ends_of,
    new_figure,
)
from remanent.report.muse import MuseTable
from remanent.report.summary import RunSummary
from remanent.report.svg import ROLES, to_svg
from remanent.report.text import number, visible

SETS = {  # records -> label, role, marker, how far below the row's middle
    FORGET: ("forget", "forget", "o", -0.24),
    PARAPHRASED: ("forget, paraphrased", "paraphrased", "D", -0.02),
    RETAIN: ("retain", "retain", "s", 0.2),
}
MUSE = {  # figure -> label, role, marker
    "verbatim": ("texts continued", "paraphrased", "D"),
    "knowledge": ("knowledge to forget", "forget", "o"),
    "utility": ("utility", "retain", "s"),
}


def nll_chart(run: RunSummary, name: str, limit: float | None = None) -> str:
    """Answer NLL of each set at each condition, with the control's interval as a band and the model before, hollow.

    Args:
        name: prefix of the ids, unique in the page.
        limit: right end of the axis, in nats, so that several runs share it.
    """
    rows = run.conditions
    figure, axes = new_figure(0.42 * len(rows) + 0.9, left=0.2, bottom=0.46, top=0.42)
    for y, row in enumerate(rows):
        control = row.audited.get(CONTROL)
        if control and math.isfinite(control.nll.value):
            low, high = ends_of(control.nll)
            axes.barh(y, high - low, left=low, height=0.86, color=ROLES["control"], alpha=0.22, linewidth=0)
            axes.plot([control.nll.value] * 2, [y - 0.43, y + 0.43], color=ROLES["control"], linewidth=1.6)
        for records, (_, role, marker, offset) in SETS.items():
            if records in row.audited:
                _dot(axes, row.audited[records].nll, y + offset, ROLES[role], marker)
        if FORGET in row.original:
            value = row.original[FORGET].nll.value
            axes.plot(value, y - 0.24, "o", markersize=4.6, markerfacecolor=PAPER, markeredgecolor=ROLES["before"])
    _rows(axes, [row.name for row in rows])
    axes.set_xlim(0, limit or nll_limit([run]))
    axes.set_xlabel("mean answer NLL, nats  (right: less known)")
    handles: Handles = [
        (label, {"color": ROLES[role], "marker": marker, "linestyle": "-"})
        for records, (label, role, marker, _) in SETS.items()
        if any(records in row.audited for row in rows)
    ]
    if any(FORGET in row.original for row in rows):
        handles.append(
            ("forget, before", {"color": ROLES["before"], "marker": "o", "markerfacecolor": PAPER, "linestyle": ""})
        )
    if any(CONTROL in row.audited for row in rows):
        handles.append(("control, interval", {"color": ROLES["control"], "marker": "|", "markersize": 10}))
    add_legend(figure, handles)
    parts = [
        f"{row.name}: "
        + ", ".join(
            f"{_set_label(key)} {number(item.nll.value)}"
            for key, item in row.audited.items()
            if key in (*SETS, CONTROL)
        )
        for row in rows
    ]
    return to_svg(figure, name, f"Answer NLL at each condition, {visible(run.name, 60)}", visible("; ".join(parts)))


def nll_limit(runs: Sequence[RunSummary]) -> float:
    """The right end of an NLL axis that holds every run's dots and intervals, in nats."""
    ends = [
        ends_of(item.nll)[1]
        for run in runs
        for row in run.conditions
        for sets in (row.audited, row.original)
        for key, item in sets.items()
        if key in (*SETS, CONTROL)
    ]
    return 1.06 * max((end for end in ends if math.isfinite(end)), default=1.0)


def retention_chart(runs: Sequence[RunSummary], name: str, upsilon: float | None) -> str:
    """Retention at each condition, one mark a run, against the least that is asked for."""
    names = list(dict.fromkeys(row.name for run in runs for row in run.conditions))
    figure, axes = new_figure(0.42 * len(names) + 0.9, left=0.2, bottom=0.46, top=0.42)
    step = min(0.3, 0.7 / max(1, len(runs)))
    values = []
    for place, run in enumerate(runs):
        for y, condition in enumerate(names):
            row = run.condition(condition)
            if row and row.retention:
                offset = (place - (len(runs) - 1) / 2) * step
                _dot(axes, row.retention, y + offset, _run_colour(place), MARKERS[place % 6])
                values += [row.retention.value, *ends_of(row.retention)]
    _rows(axes, names)
    axes.axvline(1, color=SOFT, linewidth=0.8)
    if upsilon is not None:
        axes.axvline(upsilon, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    shown = [*filter(math.isfinite, values), 1.0, upsilon or 0.0]
    low, high = min(0.0, *shown), max(1.1, *shown)
    axes.set_xlim(low, high + 0.04 * (high - low))
    axes.set_xlabel("retention  (0: no fact kept, 1: as before)")
    handles: Handles = [(visible(run.name, 24), _run_style(place, line="-")) for place, run in enumerate(runs)]
    if upsilon is not None:
        handles.append((f"asked for: {number(upsilon)}", {"color": INK, "linestyle": (0, (4, 2)), "marker": ""}))
    add_legend(figure, handles)
    parts = [
        f"{run.name} at {row.name}: {number(row.retention.value)}"
        for run in runs
        for row in run.conditions
        if row.retention
    ]
    return to_svg(figure, name, "Retention at each condition", visible("; ".join(parts)))


def loss_chart(metrics: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """Training losses by step, one line a term and point; None where nothing was trained."""
    steps = [item for item in metrics if item.get("kind") == "train" and item.get("loss")]
    terms = list(dict.fromkeys(term for item in steps for term in item["loss"]))
    if not terms:
        return None
    figure, axes = _curves(len(terms))
    points = list(dict.fromkeys(term.partition("@")[2] for term in terms))
    handles: Handles = []
    for term in terms:
        kind, _, point = term.partition("@")
        drawn = [(item["step"], item["loss"][term]) for item in steps if item["loss"].get(term) is not None]
        style: dict[str, Any] = {
            "color": ROLES.get(kind, SOFT),
            "linestyle": LINES[points.index(point) % 6],
            "linewidth": 1.1,
        }
        axes.plot(*zip(*drawn, strict=True), **style)
        handles.append((visible(term, 30), style))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    add_legend(figure, handles)
    return to_svg(figure, name, "Training losses by step", visible(f"Terms: {', '.join(terms)}"))


def evaluation_chart(metrics: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """NLL on the select split by step, with the target of the stopping rule; None where nothing was evaluated."""
    steps = [item for item in metrics if item.get("kind") == "evaluation" and item.get("nll")]
    if not steps:
        return None
    points = list(dict.fromkeys(point for item in steps for point in item["nll"]))
    figure, axes = _curves(3 * len(points) + 1)
    handles: Handles = []
    for place, point in enumerate(points):
        for role, marker in (("forget", "o"), ("retain", "s"), ("control", "^")):
            known = [(item["step"], item["nll"].get(point, {}).get(role)) for item in steps]
            drawn = [pair for pair in known if pair[1] is not None]
            if drawn:
                style: dict[str, Any] = {"color": ROLES[role], "linestyle": LINES[place % 6], "linewidth": 1.1}
                axes.plot(*zip(*drawn, strict=True), marker=marker, markersize=3.2, **style)
                handles.append((visible(f"{role}@{point}", 30), style | {"marker": marker, "markersize": 3.2}))
        aimed = [
            (item["step"], item["target"][point]) for item in steps if item.get("target", {}).get(point) is not None
        ]
        if aimed:
            axes.plot(*zip(*aimed, strict=True), "x", color=INK, markersize=4)
    if any(item.get("target") for item in steps):
        handles.append(("target", {"color": INK, "marker": "x", "markersize": 4, "linestyle": ""}))
    stop = next((item["step"] for item in steps if item.get("reached") and item["step"] > 0), None)
    if stop is not None:
        axes.axvline(stop, color=SOFT, linewidth=0.8)
        axes.annotate("stopped", (stop, 1), (-3, -3), "data", ("axes fraction"), fontsize=SIZE)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("answer NLL, nats")
    add_legend(figure, handles)
    return to_svg(figure, name, "Answer NLL during training", visible(f"On the select split, at {', '.join(points)}."))


def requests_chart(curve: Mapping[str, Any], name: str) -> str | None:
    """Scores of what was asked for so far and of what is kept, by the number of requests, each against the line that it
    should follow, where one is known; None where there is no point.

    Args:
        curve: what a run with requests writes as curve.json.
        name: prefix of the ids, unique in the page.
    """
    rows = curve.get("rows") or []
    if not rows:
        return None
    figure, axes = _curves(4)
    handles: Handles = []
    parts = []
    for role, marker in (("forget", "o"), ("retain", "s")):
        drawn = [(row["requests"], row[role]["score"]) for row in rows if row.get(role)]
        if not drawn:
            continue
        handles.append((role, _series(axes, drawn, role, marker)))
        parts.append(f"{role}: " + ", ".join(f"{number(score)} after {done}" for done, score in drawn))
        if role in curve.get("after", {}) and (role == "retain" or curve["by"] != "nothing"):
            before, after = (curve[end][role]["score"] for end in ("before", "after"))
            handles.append((f"{role}, its line", _aim(axes, [(0, before), (curve["requests"], after)], role)))
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    axes.set_xlabel("requests obeyed")
    axes.set_ylabel("score S")
    add_legend(figure, handles)
    return to_svg(figure, name, "Scores by the number of requests", visible("; ".join(parts)))


def muse_chart(table: MuseTable, name: str) -> str | None:
    """MUSE's shares over the audits, with the original's utility dashed; None where fewer than two audits made one.

    Args:
        table: the figures, audit by audit.
        name: prefix of the ids, unique in the page.
    """

    def points(key: str) -> list[tuple[int, float]]:
        return [(place, value) for place, (_, row) in enumerate(table.rows) if (value := row[key]) is not None]

    figure, axes = _curves(len(MUSE) + 1)
    handles: Handles = []
    parts = []
    for key, (label, role, marker) in MUSE.items():
        if len(drawn := points(key)) < 2:
            continue
        handles.append((label, _series(axes, drawn, role, marker)))
        parts.append(f"{label}: " + ", ".join(f"{number(value)} at {table.rows[place][0]}" for place, value in drawn))
    if not handles:
        return None
    if len(before := points("utility-before")) > 1:
        handles.append(("the original's utility", _aim(axes, before, "retain")))
    places = range(0, len(table.rows), -(-len(table.rows) // 4))  # names of more would run into each other
    axes.set_xticks(places, [visible(table.rows[place][0], 16) for place in places], parse_math=False)
    axes.set_xlim(-0.4, len(table.rows) - 0.6)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("share of 1")
    add_legend(figure, handles)
    return to_svg(figure, name, "MUSE's figures, in order", visible("; ".join(parts)))


def frontier_chart(runs: Sequence[RunSummary], name: str, epsilon: float | None, upsilon: float | None) -> str | None:
    """Each run at its worst: the smallest gap to the control against the smallest retention."""
    placed = [
        (place, run, gap.gap, kept.retention)
        for place, run in enumerate(runs)
        if (gap := run.smallest_gap) and (kept := run.smallest_retention) and gap.gap and kept.retention
    ]
    if not placed:
        return None
    figure, axes = new_figure(3.1, left=0.11, bottom=0.46, top=0.4)
    for place, _, x, y in placed:
        colour, marker = _run_colour(place), MARKERS[place % 6]
        axes.plot(ends_of(x), [y.value] * 2, color=colour, linewidth=1.4)
        axes.plot([x.value] * 2, ends_of(y), color=colour, linewidth=1.4)
        axes.plot(x.value, y.value, marker, color=colour, markersize=7, markeredgecolor=PAPER)
    axes.margins(0.18)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=max(1.1, axes.get_ylim()[1]))
    dashed: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (4, 2))}
    handles: Handles = [(visible(run.name, 24), _run_style(place, line="")) for place, run, _, _ in placed]
    if epsilon is not None:
        axes.axvline(-epsilon, **dashed)
    if upsilon is not None:
        axes.axhline(upsilon, **dashed)
    if epsilon is not None and upsilon is not None:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        right = max(right, -epsilon + 0.4)
        axes.set_xlim(min(left, -epsilon - 0.2), right)
        axes.fill_between([-epsilon, right], upsilon, top, color=ROLES["retain"], alpha=0.09, linewidth=0)
        axes.set_ylim(bottom, top)
        handles.append(("limits: both hold in the shaded corner", dashed))
    axes.set_xlabel("smallest gap to the control, nats  (right: forgotten)")
    axes.set_ylabel("smallest retention")
    add_legend(figure, handles)
    parts = [f"{run.name}: gap {number(x.value)} nats, retention {number(y.value)}" for _, run, x, y in placed]
    return to_svg(figure, name, "Forgotten against kept, each run at its worst condition", visible("; ".join(parts)))


def _curves(entries: int) -> tuple[Figure, Axes]:
    """A figure for lines over steps, with room above for a legend of that many entries."""
    top = 0.14 + 0.16 * -(-entries // LEGEND_COLUMNS)
    figure, axes = new_figure(2.15 + top, left=0.115, bottom=0.46, top=top)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    return figure, axes


def _series(axes: Axes, drawn: Sequence[tuple[int, float]], role: str, marker: str) -> dict[str, Any]:
    """Draw a role's figures as a line with markers; returns its style, for the legend."""
    style: dict[str, Any] = {"color": ROLES[role], "linestyle": "-", "linewidth": 1.4}
    style |= {"marker": marker, "markersize": 3.6}
    axes.plot(*zip(*drawn, strict=True), **style)
    return style


def _aim(axes: Axes, drawn: Sequence[tuple[int, float]], role: str) -> dict[str, Any]:
    """Draw what a role's figures should follow, dashed; returns its style, for the legend."""
    style: dict[str, Any] = {"color": ROLES[role], "linestyle": LINES[1], "linewidth": 0.9}
    axes.plot(*zip(*drawn, strict=True), **style)
    return style


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [visible(name, 16) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    for y in range(len(names) - 1):
        axes.axhline(y + 0.5, color=RULE, linewidth=0.6, zorder=0)
    axes.spines["left"].set_visible(False)


def _dot(axes: Axes, estimate: Estimate, y: float, colour: str, marker: str) -> None:
    axes.plot(ends_of(estimate), [y, y], color=colour, linewidth=1.5, solid_capstyle="butt")
    axes.plot(estimate.value, y, marker, color=colour, markersize=5, markeredgecolor=PAPER, markeredgewidth=0.6)


def _run_colour(place: int) -> str:
    return ROLES[f"run-{place % 6 + 1}"]


def _run_style(place: int, line: str) -> dict[str, Any]:
    return {"color": _run_colour(place), "marker": MARKERS[place % 6], "linestyle": line}


def _set_label(records: str) -> str:
    return SETS[records][0] if records in SETS else records
