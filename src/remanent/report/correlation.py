"""The report of a study of correlation: a table of tau, a scatter plot for each figure, one HTML page."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from remanent.core.files import write_atomic
from remanent.report.figures import INK, MARKERS, SIZE, WIDTH, Handles, add_legend, style
from remanent.report.html import environment
from remanent.report.svg import ROLES, to_png, to_svg
from remanent.report.text import visible

Found = Mapping[str, Any]

_WIDE = 30  # of the largest value over the smallest, beyond which an axis is logarithmic
_HEIGHT, _GAP, _LEFT = 1.35, 0.78, 0.52  # of a panel, in inches
_COLUMNS = 2


def figures_of(found: Found) -> list[str]:
    """The figures that sharpness is held against."""
    return list(found["models"][0]["figures"])


def columns(found: Found) -> list[str]:
    """Headings: each figure, and where there are groups, each within them."""
    names = figures_of(found)
    return ["", *names, *(f"{name}, within groups" for name in names if _groups(found))]


def lines(found: Found) -> Iterator[list[str | None]]:
    """A line for each measure: tau with its interval, of all models and within groups."""
    for measure, of in found["correlations"].items():
        models = next(iter(of.values()))["models"]
        yield [
            measure if models == len(found["models"]) else f"{measure} ({models} models)",
            *(spelled(item["tau"]) for item in of.values()),
            *(_within(item["groups"]) for item in of.values() if _groups(found)),
        ]


def spelled(tau: Mapping[str, float | None]) -> str:
    """A tau with its interval."""
    ends = f" [{_signed(tau['low'])}, {_signed(tau['high'])}]" if tau["low"] is not None else ""
    return _signed(tau["value"]) + ends


def _within(groups: Mapping[str, Mapping[str, float | None]]) -> str | None:
    return "; ".join(f"{name} {spelled(tau)}" for name, tau in groups.items()) or None


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def scatter(found: Found, figure: str, measures: Sequence[str] | None = None) -> Figure:
    """A panel for each measure: a mark for each model, its sharpness against a figure; groups in colours.

    Args:
        found: plain data of a `Study`.
        figure: the one that goes up.
        measures: which; all by default.
    """
    chosen = list(found["correlations"]) if measures is None else list(measures)
    groups: list[str | None] = [*_groups(found)] or [None]
    rows = math.ceil(len(chosen) / _COLUMNS)
    top = 0.16 + 0.17 * math.ceil(len(groups) / 3) if groups != [None] else 0.06
    height = rows * (_HEIGHT + _GAP) + top
    drawn = Figure(figsize=(WIDTH, height), facecolor="none")
    width = (WIDTH - _COLUMNS * _LEFT - 0.1) / _COLUMNS
    styles = styles_of(groups)
    for place, measure in enumerate(chosen):
        row, column = divmod(place, _COLUMNS)
        left = _LEFT + column * (width + _LEFT)
        bottom = height - top - (row + 1) * (_HEIGHT + _GAP) + 0.4
        axes = drawn.add_axes((left / WIDTH, bottom / height, width / WIDTH, _HEIGHT / height), facecolor="none")
        style(axes)
        seen = []
        for group in groups:
            models = [
                model
                for model in found["models"]
                if model["group"] == group and model["sharpness"].get(measure) is not None
            ]
            values = [model["sharpness"][measure] for model in models]
            axes.plot(values, [model["figures"][figure] for model in models], markersize=3.2, **styles[group])
            seen += values
        if min(seen) > 0 and max(seen) > _WIDE * min(seen):
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        tau = spelled(found["correlations"][measure][figure]["tau"])
        title = axes.set_title(
            f"{visible(measure, 36)}\n{tau}", fontsize=SIZE - 1.5, color=INK, loc="left", x=-0.2, linespacing=1.3
        )
        title.set_parse_math(False)
        if column == 0:
            axes.set_ylabel(visible(figure, 24))
    if groups != [None]:
        handles: Handles = [(visible(str(group), 20), styles[group]) for group in groups]
        add_legend(drawn, handles)
    return drawn


def styles_of(groups: Sequence[str | None]) -> dict[str | None, dict[str, Any]]:
    """The mark of each group: no two alike of as many groups as there are pairs of a marker and a colour."""
    count = len(MARKERS)
    return {
        group: {
            "color": ROLES[f"run-{place % 6 + 1}"],
            "marker": MARKERS[(place + place // 6) % count],
            "linestyle": "",
        }
        for place, group in enumerate(groups)
    }


def write_report(found: Found, out: Path) -> Path:
    """Write report.html, correlation.csv and a PNG for each figure into a folder.

    Args:
        found: what `remanent sharpness-correlation` writes as correlation.json.
        out: the folder.
    """
    plots = []
    for number, (figure, file) in enumerate(files_of(figures_of(found)).items()):
        drawn = scatter(found, figure)
        title = f"Sharpness and {figure}"
        told = "; ".join(f"{name}: {spelled(of[figure]['tau'])}" for name, of in found["correlations"].items())
        plots.append({"title": title, "svg": Markup(to_svg(drawn, f"scatter-{number}", title, told))})
        write_atomic(out / f"{file}.png", to_png(drawn))
    write_atomic(out / "correlation.csv", _csv(found))
    template = environment().get_template("correlation.html.j2")
    page = template.render(found=found, columns=columns(found), lines=list(lines(found)), plots=plots)
    write_atomic(out / "report.html", page)
    return out / "report.html"


def files_of(figures: Sequence[str]) -> dict[str, str]:
    """Figure -> the name of its plot, without its ending; numbered where names would be alike, in capitals or not."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for figure in figures:
        name = stem = "scatter-" + (re.sub(r"[^\w.+-]+", "-", figure).strip("-") or "figure")
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        found[figure] = name
    return found


def _csv(found: Found) -> str:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(["measure", "figure", "group", "tau", "low", "high", "models"])
    for measure, of in found["correlations"].items():
        for figure, item in of.items():
            for group, tau in (("", item["tau"]), *item["groups"].items()):
                ends = [tau[end] for end in ("value", "low", "high")]
                table.writerow([measure, figure, group, *ends, "" if group else item["models"]])
    return written.getvalue()


def _groups(found: Found) -> list[str]:
    return list(dict.fromkeys(model["group"] for model in found["models"] if model["group"] is not None))
