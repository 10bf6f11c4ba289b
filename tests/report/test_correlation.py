"""The report of a study: lines, groups, and a scatter plot whose marks are the models."""

from __future__ import annotations

import math

from remanent.report.correlation import columns, file_of, lines, scatter
from remanent.sharpness.correlation import Measured, study


def found(groups=(None,) * 5):
    values = [(0.1, 2.1), (0.2, 2.4), (0.3, 2.2), (40.0, 2.9), (None, 3.0)]
    models = [
        Measured(f"m{place}", {"worst": sharp, "always": place}, {"error": error}, group)
        for place, ((sharp, error), group) in enumerate(zip(values, groups, strict=True))
    ]
    return study(models).to_dict()


def test_lines_say_how_many_models_where_some_have_no_figure():
    assert columns(found()) == ["", "error"]
    worst, always = lines(found())
    assert worst[0] == "worst (4 models)"
    assert worst[1].startswith("+0.67 [")
    assert always[:1] == ["always"]


def test_groups_have_a_column_of_their_own():
    of = found(("a", "a", "a", "a", "b"))
    assert columns(of) == ["", "error", "error, within groups"]
    assert next(lines(of))[2] == "a +0.67"


def test_a_mark_is_a_model_and_a_wide_range_is_logarithmic():
    worst, always = scatter(found(), "error").axes
    (marks,) = worst.get_lines()
    assert sorted(zip(*marks.get_data(), strict=True)) == [(0.1, 2.1), (0.2, 2.4), (0.3, 2.2), (40.0, 2.9)]
    assert (worst.get_xscale(), always.get_xscale()) == ("log", "linear")
    assert math.isclose(sum(len(line.get_xdata()) for line in always.get_lines()), 5)
    assert len(scatter(found(), "error", ["always"]).axes) == 1


def test_names_of_figures_make_names_of_files():
    assert file_of("OOD error, %") == "scatter-OOD-error"
    assert file_of("%") == "scatter-figure"
