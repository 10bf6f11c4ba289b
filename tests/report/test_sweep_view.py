from __future__ import annotations

import math

import pytest

from remanent.errors import InputError
from remanent.report.sweep_page import headline, render
from remanent.report.sweep_terminal import settings_table
from remanent.report.sweep_view import choose, frontier, summaries, view_of

from .sweep_rows import ROWS, broken, data, row


def test_means_and_students_interval_over_seeds():
    (item,) = summaries([row("npo-a", seed, gap, 0.5) for seed, gap in enumerate((1.0, 2.0, 3.0))], 0.05)
    # Student's quantile of 0.95 with 2 degrees of freedom is 2.919986; the standard error is 1 / sqrt(3).
    reach = 2.919986 / math.sqrt(3)
    assert (item.gap.value, item.gap.low, item.gap.high) == pytest.approx((2.0, 2.0 - reach, 2.0 + reach), abs=1e-5)
    assert (item.retention.value, item.retention.low, item.retention.high) == (0.5, 0.5, 0.5)
    assert item.worst_gap == 3.0


def test_one_seed_has_its_audits_interval():
    (item,) = summaries([row("npo-a", 0, 1.0, 0.5)], 0.05)
    assert (item.gap.value, item.gap.low, item.gap.high) == (1.0, 0.9, 1.1)


def test_the_chosen_keeps_most_of_those_that_every_seed_forgets():
    view = view_of(data(ROWS))
    assert [item.name for item in view.settings] == ["npo-a", "npo-bb", "durable-ccc", "durable-dddd", "simnpo-eeeee"]
    # npo-a keeps more and forgets too little, npo-bb does so with one seed, simnpo diverged with one.
    assert view.chosen == "durable-ccc"
    assert view.fresh is not None
    assert view.fresh.seeds == [9]
    assert view.fresh.gap.value == 0.05


def test_fresh_seeds_take_no_part_in_choosing():
    better = [row("durable-dddd", 9, 0.0, 5.0, fresh=True), row("durable-ccc", 8, 9.0, -1.0, fresh=True)]
    assert view_of(data([*ROWS, *better])).chosen == "durable-ccc"


def test_none_is_chosen_before_all_its_seeds_have_run_or_where_none_is_forgotten():
    found = summaries([row("npo-a", 0, 0.0, 0.9)], 0.05)
    assert choose(found, 0.25, 2) is None
    assert choose(found, 0.25, 1) is found[0]
    assert choose(summaries([row("npo-a", 0, 0.3, 0.9)], 0.05), 0.25, 1) is None


def test_the_frontier_holds_what_no_other_beats_and_overdoing_is_no_merit():
    view = view_of(data(ROWS))
    # simnpo keeps most at a gap of 0 or less, and diverged with one seed: it is not a setting to be had.
    assert [item.name for item in frontier(view.settings)] == ["durable-ccc", "npo-a"]


def test_a_missing_figure_leaves_a_setting_out():
    (item,) = summaries([row("npo-a", 0, 0.0, 0.9), row("npo-a", 1, 0.0, 0.9, retention=None)], 0.05)
    assert item.retention is None
    assert choose([item], 0.25, 2) is None
    assert frontier([item]) == []


def test_what_varies_is_named():
    assert view_of(data(ROWS)).varied == ("beta",)


def test_other_data_are_refused():
    with pytest.raises(InputError, match="schema"):
        view_of({"schema": "remanent/evidence/v1"})


def test_the_page_shows_every_setting_and_what_failed():
    page = render(view_of(data(ROWS)), "A sweep")
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 1
    assert "step 3: the loss is inf" in page
    assert "durable, beta 11" in page  # the chosen, in words
    for name in ("FA", "RA", "Q-INT4"):
        assert f">{name}</th>" in page
    assert ">Q-INT8</th>" not in page  # not measured
    assert "<script" not in page


def test_what_others_wrote_is_escaped():
    hostile = [
        row("npo-a", 0, 0.0, 0.9, hyperparameters={"roundings": "<script>alert(1)</script>"}),
        row("npo-b", 0, 0.1, 0.8),
    ]
    page = render(view_of(data([*hostile, {**broken("npo-c", 0), "reason": "<img src=x>"}], seeds=1)))
    assert "<script>" not in page
    assert "<img" not in page


def test_the_terminal_has_a_row_a_setting_and_a_sentence():
    view = view_of(data(ROWS))
    assert settings_table(view).row_count == 6  # the original is a row
    assert len(settings_table(view, 60).columns) < len(settings_table(view, 120).columns)
    assert "Chosen: setting 3, durable, beta 11" in headline(view)
    assert "none is chosen" in headline(view_of(data([broken("npo-a", 0)])))


def test_a_comparison_has_its_references_apart_and_unseen_beside_forgotten():
    view = view_of(data([*ROWS, row("retrain-f", 0, 0.0, 1.5), row("retrain-f", 1, 0.0, 1.5)], kind="compare"))
    assert [item.method for item in view.references] == ["original", "retrain"]
    assert view.chosen == "durable-ccc"  # not the retrained, which keeps more
    assert view.best == "durable-ccc-seed1"
    (chosen,) = [item for item in view.settings if item.name == view.chosen]
    assert (chosen.forget_nll, chosen.control_nll) == pytest.approx((3.05, 3.0))  # a mean gap of -0.05
    assert (chosen.seconds, chosen.peak_memory, chosen.worst_at) == (3.5, 200_000_001, ("int4-row",))
    original = view.references[0]
    assert (original.gap.value, original.forget_nll, original.control_nll) == (2.0, 0.5, 2.5)
    page = render(view)
    for text in ("Comparison", "Method 3 keeps", "Unseen NLL", "reference", "durable-ccc-seed1", "200 MB"):
        assert text in page
    assert settings_table(view).row_count == 7
    assert "Chosen: method 3, durable:" in headline(view)


def test_rows_of_an_earlier_version_are_read():
    new = ("forget_gap_before", "seconds", "peak_memory", "reference")
    view = view_of(data([{key: value for key, value in item.items() if key not in new} for item in ROWS]))
    assert view.references == ()
    assert view.settings[0].peak_memory is None
    assert render(view)
