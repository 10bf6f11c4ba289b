"""The report of a study: lines, groups, and a scatter plot whose marks are the models."""

from __future__ import annotations

import math

from remanent.report.correlation import columns, files_of, lines, scatter, styles_of, write_report
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
    tau = of["correlations"]["worst"]["error"]["groups"]["a"]
    ends = ", ".join(f"{tau[end]:+.2f}".replace("-", "−") for end in ("low", "high"))
    assert next(lines(of))[2] == f"a +0.67 [{ends}]"


def test_a_mark_is_a_model_and_a_wide_range_is_logarithmic():
    worst, always = scatter(found(), "error").axes
    (marks,) = worst.get_lines()
    assert sorted(zip(*marks.get_data(), strict=True)) == [(0.1, 2.1), (0.2, 2.4), (0.3, 2.2), (40.0, 2.9)]
    assert (worst.get_xscale(), always.get_xscale()) == ("log", "linear")
    assert math.isclose(sum(len(line.get_xdata()) for line in always.get_lines()), 5)
    assert len(scatter(found(), "error", ["always"]).axes) == 1


def test_names_of_figures_make_names_of_files():
    assert files_of(["OOD error, %", "%"]) == {"OOD error, %": "scatter-OOD-error", "%": "scatter-figure"}
    alike = ["error, %", "error", "Error", "error-2"]
    assert len({name.lower() for name in files_of(alike).values()}) == 4


def test_no_figure_takes_the_picture_of_another(tmp_path):
    models = [
        Measured(str(place), {"a": float(place)}, {"error, %": float(place), "error": -float(place)})
        for place in range(4)
    ]
    write_report(study(models).to_dict(), tmp_path)
    first, second = sorted(tmp_path.glob("*.png"))
    assert first.read_bytes() != second.read_bytes()


def test_no_two_groups_are_marked_alike():
    styles = styles_of([f"group {place}" for place in range(36)])
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 36
