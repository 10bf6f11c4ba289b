"""Plots of sharpness: definitions, spectra, landscapes, paths and layers, one figure each, for HTML and PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remanent.report.figures import INK, LINES, MARKERS, SIZE, SOFT, Handles, add_legend, new_figure
from remanent.report.sharpness_view import Figure as Estimate
from remanent.report.sharpness_view import Row, main, named, significant, told, wrong
from remanent.report.svg import ROLES
from remanent.report.text import visible

_WIDE = 30  # of the largest value over the smallest, beyond which an axis is logarithmic
_CONTOURS = 12
_LABEL = 40  # characters of a line's name
_NONE: Estimate = {"value": None, "low": None, "high": None}


def charts(found: Mapping[str, Any]) -> dict[str, tuple[Figure, str, str]]:
    """Name -> (figure, title, what it shows in a sentence), for what was measured."""
    rows = named(found)
    made: dict[str, tuple[Figure, str, str]] = {}
    for name, title, kind, draw in (
        ("definitions", "How much the loss grows nearby", "sharpness", _definitions),
        ("errors", "How much more is answered wrongly nearby", "sharpness", _errors),
        ("landscape", "The loss along a random direction", "landscape", _lines),
        ("path", "The loss between the two models", "path", _path),
        ("layers", "Sharpness of each layer by itself", "layerwise", _layers),
        ("stragglers", "What putting a layer back gains", "stragglers", _stragglers),
        ("criticality", "How far a layer can go back", "criticality", _criticality),
        ("neurons", "Active neurons of each layer", "active-neurons", _neurons),
        ("spectrum", "Density of the Hessian's eigenvalues", "spectral-density", _spectrum),
    ):
        of = [row for row in rows if _kind(row) == kind and (name != "errors" or wrong(row))]
        if of:
            made[name] = (draw(of), title, _described(of, wrong if name == "errors" else main))
    for number, row in enumerate(row for row in rows if row["name"] == "plane"):
        made[f"plane-{number + 1}"] = (
            _plane(row),
            f"The loss over two random directions, {row['series']}",
            row["series"],
        )
    return made


def _kind(row: Row) -> str:
    """The plot that a row is for, where its measure has several."""
    return str(row["name"] if row["name"] in ("plane", "criticality") else row["measure"])


def _style(names: list[str], name: str, *, line: bool = True) -> dict[str, Any]:
    place = names.index(name)
    return {
        "color": ROLES[f"run-{place % 6 + 1}"],
        "marker": MARKERS[place % 6],
        "linestyle": LINES[place % 6] if line else "",
    }


def _legend(figure: Figure, names: list[str], *, line: bool = True) -> None:
    handles: Handles = [(visible(name, 40), _style(names, name, line=line)) for name in names]
    add_legend(figure, handles, _columns(names))


def _columns(names: list[str]) -> int:
    longest = max(map(len, names), default=0)
    return 3 if longest <= 14 else 2 if longest <= 26 else 1


def _top(names: list[str]) -> float:
    return 0.16 + 0.17 * math.ceil(len(names) / _columns(names))


def _dots(rows: dict[str, dict[str, Estimate]], label: str) -> Figure:
    """Lines of figures, a mark a series: line -> series -> figure."""
    names = list(dict.fromkeys(name for items in rows.values() for name in items))
    step = min(0.24, 0.7 / max(1, len(names)))
    height = max(0.34, 0.16 * len(names)) * len(rows) + 0.6 + _top(names)
    longest = max(len(visible(name, _LABEL)) for name in rows)
    figure, axes = new_figure(height, left=min(0.58, 0.06 + 0.0133 * longest), bottom=0.46, top=_top(names))
    values = [item["value"] for items in rows.values() for item in items.values() if item["value"] is not None]
    wide = bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)
    left_end = min(values, default=0.0) / 3
    for y, items in enumerate(rows.values()):
        for name, item in items.items():
            if item["value"] is None:
                continue
            at = y + (names.index(name) - (len(names) - 1) / 2) * step
            style = _style(names, name, line=False)
            low, high = item["low"], item["high"]
            if low is not None and high is not None:
                axes.plot([max(low, left_end) if wide else low, high], [at, at], color=style["color"], lw=1.2)
            axes.plot(item["value"], at, markersize=5, **style)
    if wide:
        axes.set_xscale("log")
        axes.set_xlim(left=left_end)
    else:
        axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [visible(name, _LABEL) for name in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(label)
    _legend(figure, names, line=False)
    return figure


def _definitions(rows: list[Row]) -> Figure:
    return _by_name(rows, main, "growth of the loss, nats")


def _errors(rows: list[Row]) -> Figure:
    return _by_name(rows, wrong, "growth of the error, share")


def _by_name(rows: list[Row], figure: Callable[[Row], Estimate | None], label: str) -> Figure:
    found: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        found.setdefault(row["name"], {})[row["series"]] = figure(row) or _NONE
    return _dots(found, label)


def _layers(rows: list[Row]) -> Figure:
    found: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        for name, item in [*row["layers"].items(), ("all together", row["whole"])]:
            found.setdefault(name, {})[row["series"]] = item["loss"]
    return _dots(found, "growth of the loss, nats")


def _stragglers(rows: list[Row]) -> Figure:
    return _by_layer(rows, "scores", "accuracy gained, share")


def _criticality(rows: list[Row]) -> Figure:
    return _by_layer(rows, "scores", "smallest weight of the layer that keeps the accuracy")


def _neurons(rows: list[Row]) -> Figure:
    return _by_layer(rows, "layers", "active neurons, share")


def _by_layer(rows: list[Row], key: str, label: str) -> Figure:
    found: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        for name, item in row[key].items():
            found.setdefault(name, {})[row["series"]] = item
    return _dots(found, label)


def _curve(axes: Axes, at: list[float], losses: list[Estimate], style: dict[str, Any]) -> None:
    values = [np.nan if item["value"] is None else item["value"] for item in losses]
    if all(item["low"] is not None for item in losses):
        axes.fill_between(
            at,
            [item["low"] for item in losses],  # type: ignore[arg-type]
            [item["high"] for item in losses],  # type: ignore[arg-type]
            color=style["color"],
            alpha=0.14,
            linewidth=0,
        )
    axes.plot(at, values, linewidth=1.3, markersize=3.4, **style)


def _lines(rows: list[Row]) -> Figure:
    return _losses(rows, "distances", "distance, in lengths of the filters")


def _path(rows: list[Row]) -> Figure:
    return _losses(rows, "weights_of_model", "weight of the model (0: the one before)")


def _losses(rows: list[Row], along: str, label: str) -> Figure:
    names = [row["series"] for row in rows]
    figure, axes = new_figure(2.7 + _top(names), left=0.12, bottom=0.46, top=_top(names))
    for row in rows:
        _curve(axes, row[along], row["losses"], _style(names, row["series"]))
    axes.set_xlabel(label)
    axes.set_ylabel("loss, nats")
    _legend(figure, names)
    return figure


def _spectrum(rows: list[Row]) -> Figure:
    names = [row["series"] for row in rows]
    figure, axes = new_figure(2.7 + _top(names), left=0.14, bottom=0.46, top=_top(names))
    for row in rows:
        style = _style(names, row["series"]) | {"marker": ""}
        axes.plot(row["grid"], np.maximum(row["density"], 1e-9), linewidth=1.2, **style)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-7)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("density")
    _legend(figure, names)
    return figure


def _plane(row: Row) -> Figure:
    figure, axes = new_figure(4.0, left=0.14, bottom=0.46, top=0.1)
    losses = np.array([[np.nan if item["value"] is None else item["value"] for item in line] for line in row["losses"]])
    at = row["distances"]
    levels = np.linspace(np.nanmin(losses), np.nanmax(losses), _CONTOURS + 1)[1:]
    drawn = axes.contour(at, at, losses.T, levels=levels, colors=[ROLES["run-1"]], linewidths=0.9)
    axes.clabel(drawn, levels=levels[1::3], fmt=lambda value: significant(value), fontsize=SIZE - 1.5, colors=[INK])
    axes.plot(0, 0, "+", color=INK, markersize=8)
    axes.set_xlabel("first direction, in lengths of the filters")
    axes.set_ylabel("second direction")
    axes.grid(False)
    return figure


def _described(rows: list[Row], figure: Callable[[Row], Estimate | None]) -> str:
    parts = []
    for row in rows:
        if row["measure"] in ("sharpness", "path", "spectral-density"):
            parts.append(f"{row['series']}, {row['name']}: {significant((figure(row) or _NONE)['value'])}")
        elif row["measure"] == "landscape":
            ends = [significant(row["losses"][place]["value"]) for place in (0, len(row["losses"]) // 2, -1)]
            parts.append(f"{row['series']}: {', '.join(ends)} at the left, the middle and the right")
        elif row["measure"] == "stragglers":
            parts.append(f"{row['series']}: most by {next(iter(row['scores']))}")
        elif row["measure"] == "active-neurons":
            parts.append(f"{row['series']}: {told(row)}")
        else:
            parts.append(f"{row['series']}: all together {significant(row['whole']['loss']['value'])}")
    return visible("; ".join(parts))
