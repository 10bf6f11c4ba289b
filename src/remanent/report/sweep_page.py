"""The page of a sweep: the frontier, every setting, every trial, in the look of the report."""

from __future__ import annotations

from markupsafe import Markup

from remanent.report.frontier import frontier_chart
from remanent.report.html import environment
from remanent.report.sweep_view import Row, SettingSummary, SweepView, value_of
from remanent.report.text import number

PUBLISHED = ("FA", "CA", "RA", "Q-INT8", "CA-INT8", "RA-INT8", "Q-INT4", "CA-INT4", "RA-INT4")


def render(view: SweepView, title: str | None = None) -> str:
    """The page as complete HTML.

    Args:
        view: the sweep, or the comparison.
        title: of the page; what it is where nothing is said.
    """
    comparison = view.kind == "compare"
    plot = frontier_chart(view, "frontier")
    published = [name for name in PUBLISHED if any(row["published"].get(name) is not None for row in _done(view))]
    return (
        environment()
        .get_template("sweep.html.j2")
        .render(
            title=title or ("Comparison" if comparison else "Sweep"),
            comparison=comparison,
            noun=_noun(view),
            asked=view.information[view.kind],
            view=view,
            faster=any(view.speed_up(item) for item in view.settings),
            attacked=any(item.attacked_gap for item in view.settings),
            own=own,
            plot=Markup(plot) if plot else None,
            chosen=next((item for item in view.settings if item.name == view.chosen), None),
            best={item.name for item in view.frontier},
            published=published,
            before=_before(view, published),
            spelled=spelled,
            told=told,
            failed=[row for row in view.rows if row["status"] != "done"],
        )
    )


def spelled(item: SettingSummary, name: str) -> str:
    """What a setting has for something that varies, for a table."""
    found = value_of(item, name)
    if isinstance(found, bool) or found is None:
        return "–" if found is None else str(found).lower()
    return found if isinstance(found, str) else f"{found:.4g}"


def own(item: SettingSummary) -> str:
    """What a method has in place of its defaults, in words."""
    parts = [f"{name} {spelled(item, name)}" for name in ("learning_rate", *item.hyperparameters)]
    return ", ".join(part for part in parts if not part.endswith("–")) or "–"


def told(item: SettingSummary, view: SweepView) -> str:
    """A setting in words: its method and what varies."""
    if view.kind == "compare":
        return item.method
    parts = [f"{name} {spelled(item, name)}" for name in view.varied if spelled(item, name) != "–"]
    return ", ".join([item.method, *parts])


def headline(view: SweepView) -> str:
    """What came of a sweep, in a sentence."""
    ended, noun = f"{len(view.rows)} of {view.planned} trials have ended", _noun(view)
    for item in view.settings:
        if item.name == view.chosen and item.retention is not None:
            gap, kept = number(item.worst_gap), number(item.retention.value)
            what = f"keeps {kept} with a forget gap of at most {gap} nats"
            return f"{ended}. Chosen: {noun} {item.number}, {told(item, view)}: it {what}."
    return f"{ended}. No {noun} is forgotten within {number(view.epsilon)} nats with every seed: none is chosen."


def _noun(view: SweepView) -> str:
    return "method" if view.kind == "compare" else "setting"


def _done(view: SweepView) -> list[Row]:
    return [row for row in view.rows if row["status"] == "done"]


def _before(view: SweepView, published: list[str]) -> dict[str, float | None]:
    """The same accuracies of the model before unlearning, which every trial shares."""
    for row in view.rows:
        if row["status"] == "done":
            return {name: row["before"].get(name) for name in published}
    return {}
