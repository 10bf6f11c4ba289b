"""The report as one self-contained HTML page: no script, no network, nothing in it that was not escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from remanent.errors import InputError
from remanent.report import charts
from remanent.report.attacker import AttackerRow, attacker_rows, layer_rows
from remanent.report.benchmarks import BenchmarkRow, benchmark_rows
from remanent.report.muse import scalability
from remanent.report.summary import QUESTION_SETS, RunSummary, summarize
from remanent.report.text import duration, interval, number, percent, visible
from remanent.report.view import MARKS, Line, RunView
from remanent.report.words import figure, headline, listed, problems, untested, words_of

OUTPUT_LIMIT = 600


@dataclass(frozen=True)
class Column:
    """One judged line over the conditions: a column of the verdict matrix."""

    name: str
    threshold: float | None
    cells: Mapping[str, Line]


@dataclass(frozen=True)
class Page:
    """One run, ready for the template: what was measured, its small tables, its plots."""

    id: str
    view: RunView
    summary: RunSummary
    plots: Mapping[str, Markup | None]

    @property
    def sets(self) -> list[str]:
        """The sets of questions that were scored."""
        return [name for name in QUESTION_SETS if any(name in row.audited for row in self.summary.conditions)]

    @property
    def columns(self) -> list[Column]:
        """The lines that are judged at conditions, in the order in which the judge named them."""
        found: dict[str, dict[str, Line]] = {}
        for line in self.view.lines:
            if line.condition is not None:
                found.setdefault(line.name, {})[line.condition] = line
        columns = []
        for name, cells in found.items():
            thresholds = {line.threshold for line in cells.values()}
            columns.append(Column(name, thresholds.pop() if len(thresholds) == 1 else None, cells))
        return columns

    @property
    def told(self) -> list[AttackerRow]:
        """What an attacker could tell, at each condition at which it was measured."""
        return attacker_rows(self.view.evidence)

    @property
    def layers(self) -> list[AttackerRow]:
        """How far each layer's weights lie from a reference's."""
        return layer_rows(self.view.evidence)

    @property
    def benchmarks(self) -> list[BenchmarkRow]:
        """The benchmarks' own figures, set by set."""
        return benchmark_rows(self.view.evidence)


def render(runs: Sequence[RunView], title: str) -> str:
    """The report of one run, or of several side by side, as a complete HTML page.

    Args:
        runs: at least one; their names tell them apart.
        title: of the page.

    Raises:
        InputError: where there is no run, or two have one name.
    """
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise InputError("runs", names, "at least one run, each with a name of its own")
    summaries = [summarize(run) for run in runs]
    limit = charts.nll_limit(summaries)
    epsilon, upsilon = (_shared(runs, key) for key in ("epsilon", "upsilon"))
    pages = [
        _page(f"run-{place}", run, summary, limit)
        for place, (run, summary) in enumerate(zip(runs, summaries, strict=True), start=1)
    ]
    shared: dict[str, str | None] = {"retention": charts.retention_chart(summaries, "retention", upsilon)}
    if len(runs) > 1:
        shared["frontier"] = charts.frontier_chart(summaries, "frontier", epsilon, upsilon)
    template = environment().get_template("report.html.j2")
    return template.render(
        title=title,
        pages=pages,
        shared={name: Markup(plot) if plot else None for name, plot in shared.items()},
        asked=_asked(runs),
        scalability=scalability([(run.name, run.evidence) for run in runs]) if len(runs) > 1 else (),
        conditions=list(dict.fromkeys(row.name for summary in summaries for row in summary.conditions)),
        marks=MARKS,
    )


def _page(name: str, run: RunView, summary: RunSummary, limit: float) -> Page:
    plots = {
        "nll": charts.nll_chart(summary, f"{name}-nll", limit),
        "loss": charts.loss_chart(run.metrics, f"{name}-loss"),
        "evaluation": charts.evaluation_chart(run.metrics, f"{name}-evaluation"),
        "requests": charts.requests_chart(run.curve, f"{name}-requests"),
    }
    return Page(name, run, summary, {key: Markup(plot) if plot else None for key, plot in plots.items()})


def _shared(runs: Sequence[RunView], threshold: str) -> float | None:
    """What every run was held to; None where they were held to different limits, of which a plot can draw none."""
    asked = {run.criteria.get(threshold) for run in runs}
    return asked.pop() if len(asked) == 1 else None


def _asked(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """The user's questions, each with the answer before and one after for each run that was asked."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        for item in run.asked:
            key = (str(item["question"]), str(item.get("condition", "")))
            row = rows.setdefault(
                key, {"question": key[0], "condition": key[1], "before": item.get("before"), "after": {}}
            )
            row["after"][run.name] = item.get("after")
    return list(rows.values())


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines of a table: ("optimizer.lr", "1e-05")."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            listed = isinstance(value, list | tuple)
            yield f"{prefix}{key}", ", ".join(map(str, value)) if listed else str(value)


def environment() -> Environment:
    """Autoescape is on for everything, and every expression is made visible first; only our plots are markup."""
    environment = Environment(
        loader=PackageLoader("remanent.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else visible(value),
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "percent_1": lambda share: percent(share, 1),
        "duration": duration,
        "output": lambda text: visible(text, OUTPUT_LIMIT),
        "flat": lambda data: list(_flat(data)),
        "slug": lambda verdict: verdict.lower().replace(" ", "-"),
    }
    environment.globals |= {
        "interval": interval,
        "figure": figure,
        "headline": headline,
        "listed": listed,
        "muse_plot": lambda table, name: Markup(charts.muse_chart(table, name) or ""),
        "problems": problems,
        "untested": untested,
        "words": words_of,
    }
    return environment
