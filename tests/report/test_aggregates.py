"""The survey's aggregates, on cases worked by hand, and where they stand in a sweep and a comparison."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from remanent.report.aggregates import forgetting, harmonic_mean, hypervolume
from remanent.report.sweep_page import render
from remanent.report.sweep_terminal import show
from remanent.report.sweep_view import view_of

from .sweep_rows import ROWS, broken, data, row

RETRAINED = [row("retrain-f", 0, 0.0, 1.5, seconds=12.0), row("retrain-f", 1, 0.0, 1.5, seconds=16.0)]


@pytest.mark.parametrize(
    ("gap", "before", "found"), [(2.0, 2.0, 0), (0.5, 2.0, 0.75), (0.0, 2.0, 1), (-3.0, 2.0, 1), (5.0, 2.0, 0)]
)
def test_forgetting_is_the_share_of_the_gap_that_is_gone(gap, before, found):
    assert forgetting(gap, before) == found


def test_where_there_was_no_gap_nothing_was_to_be_forgotten():
    assert forgetting(0.0, 0.0) is None
    assert forgetting(0.0, -1.0) is None


@pytest.mark.parametrize(
    ("forgotten", "kept", "found"),
    [(0.5, 1.0, 2 / 3), (0.75, 0.75, 0.75), (0.0, 1.0, 0), (1.0, -4, 0), (1.0, 7, 1)],
)
def test_harmonic_mean_by_hand(forgotten, kept, found):
    assert harmonic_mean(forgotten, kept) == pytest.approx(found)


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0),
        ([(0.5, 0.5)], 0.25),
        ([(1.0, 0.5), (0.5, 1.0)], 0.75),  # 1 * 0.5, and 0.5 * 0.5 above it
        ([(0.25, 1.0), (1.0, 0.25), (0.5, 0.5)], 0.5),  # 0.25, then 0.5 * 0.25, then 0.25 * 0.5
        ([(1.0, 0.5), (0.5, 0.25)], 0.5),  # the second is beaten
        ([(1.0, 0.5), (1.0, 0.75)], 0.75),
        ([(9.0, 9.0)], 1),
        ([(-1.0, 0.5)], 0),
    ],
)
def test_hypervolume_by_hand_in_any_order(points, area):
    assert hypervolume(points) == pytest.approx(area)
    assert hypervolume(points[::-1]) == pytest.approx(area)


def test_a_sweep_has_them_of_its_frontier_and_of_each_methods_own():
    """Before, the gap was 2. npo: (0.7, 0.96) and (0.9, 0.71); durable: (1, 0.82) and (1, 0.605)."""
    view = view_of(data(ROWS))
    assert view.hypervolume == pytest.approx(0.82 + 0.7 * (0.96 - 0.82))
    found = view.hypervolumes
    assert list(found) == ["npo", "durable"]  # simnpo failed with one seed
    assert found["npo"] == pytest.approx(0.9 * 0.71 + 0.7 * (0.96 - 0.71))
    assert found["durable"] == pytest.approx(0.82)
    means = [view.harmonic_mean(item) for item in (*view.references, *view.settings[:3])]
    assert means == pytest.approx([0.0, *(2 * x * y / (x + y) for x, y in ((0.7, 0.96), (0.9, 0.71), (1.0, 0.82)))])
    assert view_of(data(ROWS, kind="compare")).hypervolumes == {}
    assert view_of(data([item for item in ROWS if item["method"] == "npo"])).hypervolumes == {}


def test_without_the_figures_that_they_are_made_of_there_are_none():
    lacking = [row("npo-a", 0, 0.5, 0.9, retention=None), row("npo-bb", 0, 0.5, 0.9, forget_gap_before=None)]
    for only in (*lacking, broken("npo-a", 0)):
        view = view_of(data([only], seeds=1))
        assert (view.hypervolume, view.harmonic_mean(view.settings[0])) == (None, None)
        assert "Hypervolume" not in render(view)


def test_speed_up_is_against_the_fastest_retraining_that_ended_well():
    npo = [row("npo-a", 0, 0.5, 0.9, seconds=2.0), row("npo-a", 1, 0.5, 0.9, seconds=5.0)]
    slower = [row("retrain-gg", seed, 0.0, 1.0, seconds=40.0) for seed in (0, 1)]
    quick = {**broken("retrain-hhh", 1), "reference": True}
    failed = [row("retrain-hhh", 0, 0.0, 1.0, seconds=0.1), quick]
    view = view_of(data([*npo, *slower, *RETRAINED, *failed]))
    (item,) = view.settings
    assert view.speed_up(item) == pytest.approx(14.0 / 3.5)
    assert view.speed_up(view.references[0]) is None  # the original took no seconds
    assert view_of(data(npo)).speed_up(item) is None
    unknown = [{**item, "seconds": None} for item in RETRAINED]
    assert view_of(data([*npo, *unknown])).speed_up(item) is None


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_page_and_terminal_show_them():
    view = view_of(data([*ROWS, *RETRAINED]))
    text = words(render(view))
    assert "Hypervolume of the frontier: 0.92, of its settings alone npo 0.81, durable 0.82. It is the area" in text
    assert "Retention Both Verdict" in text
    assert "Seconds Speed-up Peak memory" in text
    assert "durable 160 3 of 5 3.5 4.0 200 MB" in text  # 14 seconds of retraining over 3.5
    assert "Speed-up" not in words(render(view_of(data(ROWS))))
    said = io.StringIO()
    show(view, Console(file=said, width=140))
    assert "Hypervolume of the frontier: 0.92" in said.getvalue()
    (line,) = [line for line in said.getvalue().splitlines() if " 11 " in line]
    assert " 0.90 " in line  # 2 * 1 * 0.82 / 1.82
    narrow = io.StringIO()
    show(view, Console(file=narrow, width=60))
    assert "both" not in narrow.getvalue()


@pytest.mark.parametrize("width", range(80, 150, 3))
def test_no_column_is_pushed_out_of_a_terminal(width):
    """Beside a hyper-parameter that varies, the mean of both stands where all else does."""
    rows = [{**item, "hyperparameters": {"beta": place}} for place, item in enumerate(ROWS)]
    view = view_of(data([*rows, *RETRAINED]))
    said = io.StringIO()
    show(view, Console(file=said, width=width))
    lines = said.getvalue().splitlines()
    assert any("*" in line.split()[0] for line in lines if line.split()), said.getvalue()
    assert all(len(line) <= width for line in lines)
