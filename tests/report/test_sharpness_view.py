"""Sets of records keep their names apart in tables and plots."""

from __future__ import annotations

from remanent.report.sharpness_charts import charts
from remanent.report.sharpness_view import columns, lines


def row(data, at, value):
    figure = {"value": value, "low": None, "high": None}
    of = {"data": data, "at": at, "name": "worst-l2-0.05", "measure": "sharpness"}
    return of | {"loss": figure, "error": figure, "clean": value, "definition": {"normalized": False}}


def test_sets_of_one_last_name_are_told_by_the_whole():
    found = {"rows": [row("a/forget.jsonl", "full", 1.0), row("b/forget.jsonl", "full", 2.0)]}
    assert columns(found) == ["", "a/forget.jsonl", "b/forget.jsonl"]
    assert list(lines(found)) == [["loss", "1", "2"], ["worst-l2-0.05", "1", "2"], ["worst-l2-0.05, error", "1", "2"]]
    described = charts(found)["definitions"][2]
    assert "a/forget.jsonl, worst-l2-0.05: 1" in described
    assert "b/forget.jsonl, worst-l2-0.05: 2" in described


def test_the_loss_is_never_that_of_normalized_logits_and_errors_may_be_missing():
    scaled = row("a/forget.jsonl", "full", 1.0) | {"definition": {"normalized": True}, "error": None}
    assert list(lines({"rows": [scaled]})) == [["worst-l2-0.05", "1"]]
    assert "errors" not in charts({"rows": [scaled]})


def test_sets_of_other_names_go_by_the_last():
    found = {"rows": [row("a/forget.jsonl", at, 1.0) for at in ("full", "int8")] + [row("b/retain.jsonl", "full", 2.0)]}
    assert columns(found) == ["", "forget", "forget at int8", "retain"]
