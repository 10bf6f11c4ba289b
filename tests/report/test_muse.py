"""MUSE's figures of several audits: which conditions have a table, in which order, and when there is none."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from remanent.auditing.evidence import (
    AUDITED,
    FORGET,
    ORIGINAL,
    RETAIN,
    ConditionInfo,
    Evidence,
    Measure,
    Measurement,
    RecordScore,
)
from remanent.report.charts import muse_chart
from remanent.report.html import render
from remanent.report.muse import scalability, sustainability
from remanent.report.view import RunView


def audit(size: int, utility: float, at: str = "muse") -> Evidence:
    scores = tuple(RecordScore(f"{row:016x}", "0" * 16, 1.0, 1, 1) for row in range(size))
    figures = ((AUDITED, FORGET, "knowledge", 0.25), (AUDITED, RETAIN, "knowledge", utility))
    made = [Measure(who, at, part, name, value, None, None, size) for who, part, name, value in figures]
    made.append(Measure(ORIGINAL, at, RETAIN, "knowledge", 0.75, None, None, size))
    return Evidence((), (Measurement(AUDITED, "full", FORGET, scores),), measures=tuple(made))


def test_a_table_for_each_condition_and_a_row_for_each_audit() -> None:
    rounded = audit(4, 0.25, "muse+int4-row")
    both = replace(audit(4, 0.5), measures=(*audit(4, 0.5).measures, *rounded.measures))
    first, second = sustainability([("2", audit(2, 0.625)), ("4", both)])
    assert (first.condition, second.condition) == ("muse", "muse+int4-row")
    assert [name for name, _ in first.rows] == ["2", "4"]
    assert [row["utility-change"] for _, row in first.rows] == [0.0, -0.125]
    assert [row["utility"] for _, row in second.rows] == [None, 0.25]
    assert sustainability([("2", replace(audit(2, 0.5), measures=()))]) == ()
    assert sustainability([]) == ()


def test_scalability_begins_with_the_smallest_forget_set_and_needs_two_sizes() -> None:
    (table,) = scalability([("large", audit(8, 0.25)), ("small", audit(2, 0.625))])
    assert [name for name, _ in table.rows] == ["small", "large"]
    assert table.rows[1][1]["utility-change"] == -0.375
    assert scalability([("a", audit(2, 0.5)), ("b", audit(2, 0.25))]) == ()
    assert scalability([("a", audit(2, 0.5)), ("b", replace(audit(4, 0.25), measurements=()))]) == ()


@pytest.fixture
def runs(plain: RunView, durable: RunView) -> list[RunView]:
    """Two runs that MUSE was asked of, the second with one group less to forget."""
    made = []
    for run, less, utility in ((plain, 0, 0.25), (durable, 4, 0.625)):
        found = run.evidence
        cut = tuple(
            replace(item, scores=item.scores[less:]) if item.records == FORGET else item for item in found.measurements
        )
        asked = (*found.conditions, ConditionInfo("muse", "other", ""))
        measures = audit(1, utility).measures
        made.append(replace(run, evidence=replace(found, conditions=asked, measurements=cut, measures=measures)))
    return made


def words(page: str) -> str:
    body = re.sub(r"<svg.*?</svg>", "", page.partition("<main>")[2], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_runs_side_by_side_show_what_the_size_of_the_forget_set_costs(runs: list[RunView], plain: RunView) -> None:
    text = words(render(runs, "Sizes"))
    assert "MUSE’s scalability" in text
    assert "durable 44 – 0.25 – 0.62 0.75 0.00 plain 48 – 0.25 – 0.25 0.75 −0.38" in text
    assert "scalability" not in words(render(runs[:1], "One"))


def test_the_plot_says_each_figure_of_each_audit_and_needs_two() -> None:
    (table,) = sustainability([(str(size), audit(size, 1 / size)) for size in (2, 4, 8)])
    drawn = muse_chart(table, "run-1-muse-1")
    assert drawn is not None
    assert "knowledge to forget: 0.25 at 2, 0.25 at 4, 0.25 at 8; utility: 0.50 at 2, 0.25 at 4, 0.12 at 8" in drawn
    assert "texts continued" not in drawn  # no audit continued one
    assert muse_chart(replace(table, rows=table.rows[:1]), "one") is None


def test_a_page_of_several_runs_holds_the_plot_and_no_id_twice(runs: list[RunView]) -> None:
    page = render(runs, "Sizes")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert any(name.startswith("all-muse-1") for name in ids)
    assert len(ids) == len(set(ids))


def test_a_queue_shows_what_its_requests_cost(plain: RunView) -> None:
    tables = sustainability([("10", audit(2, 0.625)), ("20", audit(4, 0.5))])
    queue = replace(plain, muse=tables, requests=())
    text = words(render([replace(queue, curve={})], "Queue"))
    assert "MUSE’s sustainability" in text
    assert "10 2 – 0.25 – 0.62 0.75 0.00 20 4 – 0.25 – 0.50 0.75 −0.12" in text
    assert "sustainability" not in words(render([plain], "Plain"))
