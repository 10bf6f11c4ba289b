from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from remanent.auditing.evidence import AUDITED, FORGET, ConditionInfo, Evidence, Measurement, RecordScore
from remanent.report import charts
from remanent.report.summary import RunSummary, summarize
from remanent.report.svg import ROLES
from remanent.report.view import RunView

CURVE = {
    "requests": 4,
    "by": "control",
    "before": {"forget": {"score": 90.0}, "retain": {"score": 88.0}},
    "after": {"forget": {"score": 30.0}, "retain": {"score": 88.0}},
    "rows": [
        {
            "requests": done,
            **{
                role: {"score": score, "rouge_l": None}
                for role, score in (("forget", 70.0 - 9 * done), ("retain", 85.0))
            },
            "forget_line": 60.0,
            "forget_degree": 0.87,
            "retain_line": 88.0,
            "retain_utility": 0.96,
        }
        for done in (2, 4)
    ],
}


@pytest.fixture(scope="module")
def summary(plain: RunView) -> RunSummary:
    return summarize(plain)


@pytest.fixture(scope="module")
def drawn(plain: RunView, summary: RunSummary) -> dict[str, str]:
    found = {
        "nll": charts.nll_chart(summary, "nll"),
        "retention": charts.retention_chart([summary], "retention", 0.8),
        "loss": charts.loss_chart(plain.metrics, "loss"),
        "evaluation": charts.evaluation_chart(plain.metrics, "evaluation"),
        "frontier": charts.frontier_chart([summary], "frontier", 0.25, 0.8),
        "requests": charts.requests_chart(CURVE, "requests"),
    }
    return {name: svg for name, svg in found.items() if svg}


def test_every_plot_belongs_to_the_page(drawn: dict[str, str]) -> None:
    assert len(drawn) == 6
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        assert root.tag == "svg"
        assert root.attrib["role"] == "img"
        title, description = root.find("title"), root.find("desc")
        assert title is not None
        assert description is not None
        assert title.text
        assert description.text
        assert root.attrib["aria-labelledby"] == f"{name}-title {name}-description"
        assert not [element.tag for element in root.iter() if element.tag in ("style", "script", "metadata", "image")]
        assert "http" not in svg
        assert "DejaVu" not in svg
        assert not [colour for colour in ROLES.values() if colour in svg]
        ids = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
        assert all(identifier.startswith(f"{name}-") for identifier in ids)
        used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
        assert used <= ids


def test_only_the_page_gives_colours(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) == set()


def test_no_two_plots_share_an_id(drawn: dict[str, str]) -> None:
    ids = [found for svg in drawn.values() for found in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))


def test_the_same_run_draws_the_same_plot(summary: RunSummary, drawn: dict[str, str]) -> None:
    assert charts.nll_chart(summary, "nll") == drawn["nll"]


def test_every_condition_has_its_row_and_its_figures(summary: RunSummary, drawn: dict[str, str]) -> None:
    for row in summary.conditions:
        assert f">{row.name}<" in drawn["nll"]
        assert f"{row.name}: forget {row.audited[FORGET].nll.value:.2f}" in drawn["nll"]


def test_the_dot_is_where_the_figure_is(summary: RunSummary) -> None:
    """The frontier's mark moves right by as much as the gap grows, on an axis that is fixed by the limits."""
    low, high = (charts.nll_limit([summary]), charts.nll_limit([summary, summary]))
    assert low == high
    ends = [item.nll.high for row in summary.conditions for item in row.audited.values() if item.nll.high is not None]
    assert low > max(ends[:4])


def test_where_the_rule_stopped_the_run_a_line_says_so(plain: RunView) -> None:
    drawn = charts.evaluation_chart(plain.metrics, "x")
    assert drawn is not None
    assert "stopped" in drawn
    unstopped = [row if row["kind"] == "train" else row | {"reached": row["step"] == 0} for row in plain.metrics]
    drawn = charts.evaluation_chart(unstopped, "x")
    assert drawn is not None
    assert "stopped" not in drawn


def test_what_was_not_done_is_not_drawn() -> None:
    assert charts.loss_chart([], "x") is None
    assert charts.evaluation_chart([{"step": 1, "kind": "train", "loss": {"forget@full": 1.0}}], "x") is None
    assert charts.frontier_chart([RunSummary("r", "PASSED", (), (), ())], "x", 0.25, 0.8) is None


def test_names_are_text_and_nothing_else(summary: RunSummary) -> None:
    hostile = replace(summary, name="</svg><script>alert(1)</script> $\\frac{")
    svg = charts.retention_chart([hostile, replace(summary, name="$x_1$ \x00\u202e")], "retention", None)
    root = ElementTree.fromstring(svg)
    assert not root.findall(".//script")
    assert "$x_1$" in svg


def test_scores_that_are_not_finite_leave_a_gap() -> None:
    scores = (RecordScore("r", "g", float("inf"), 2, 0),)
    evidence = Evidence((ConditionInfo("full", "full", ""),), (Measurement(AUDITED, "full", FORGET, scores),))
    assert "<svg" in charts.nll_chart(summarize(RunView("r", evidence, "NOT ASSESSABLE")), "x")


def test_losses_that_are_missing_at_some_steps_are_drawn() -> None:
    steps = [
        {"step": n, "kind": "train", "loss": {"forget@full": 1.0, "x": None} if n % 2 else {"retain@int4": 2.0}}
        for n in range(6)
    ]
    svg = charts.loss_chart(steps, "x")
    assert svg is not None
    assert ">retain@int4<" in svg


def test_a_curve_without_lines_or_points_is_drawn_as_far_as_it_goes() -> None:
    bare = {"by": "nothing", "requests": 2, "rows": [{"requests": 2, "forget": {"score": 10.0, "rouge_l": None}}]}
    svg = charts.requests_chart(bare, "bare")
    assert svg is not None
    assert "its line" not in svg
    assert "forget: 10.00 after 2" in svg
    ends = {"forget": {"score": 90.0}, "retain": {"score": 80.0}}
    point = {"requests": 2, "forget": {"score": 10.0}, "retain": {"score": 70.0}}
    kept = charts.requests_chart({**bare, "before": ends, "after": ends, "rows": [point]}, "kept")
    assert kept
    assert "retain, its line" in kept
    assert "forget, its line" not in kept
    assert charts.requests_chart({}, "none") is None
    assert charts.requests_chart({"by": "nothing", "rows": []}, "none") is None
