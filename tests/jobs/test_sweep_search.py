"""The search: it learns, keeps to its constraint, and goes on as it would have."""

from __future__ import annotations

import importlib
import math

import pytest

from remanent.core.estimate import Estimate
from remanent.core.files import read_json
from remanent.errors import InputError, MissingExtraError
from remanent.jobs.sweep import sweep
from remanent.jobs.sweep_config import SweepFile
from remanent.jobs.sweep_search import Search
from remanent.report.sweep_view import SettingSummary

optuna = pytest.importorskip("optuna", reason="optuna is not installed: pip install 'remanent[search]'")


def file(search, **more):
    sweep = {"method": "npo", "learning_rate": [1e-5, 1e-2], "search": search, **more}
    return SweepFile.model_validate({"sweep": sweep, "unlearn": {"model": "m", "data": {}}})


def told(setting, gap, kept):
    return SettingSummary(1, "s", setting.method, setting.learning_rate, {}, 1, (), Estimate(gap), Estimate(kept), gap)


def world(setting):
    """Larger steps forget more and keep less: at a gap of at most 0.25, a rate of 1e-3 keeps most."""
    size = math.log10(setting.learning_rate) + 3  # 0 at 1e-3
    return told(setting, 0.25 - size, 0.9 - 0.3 * size)


def run(search, count):
    settings = []
    for _ in range(count):
        setting = search.ask()
        settings.append(setting)
        search.tell(setting, world(setting))
    return settings


def test_it_closes_in_on_the_best_that_is_forgotten(tmp_path):
    found = run(Search(file(24), 0.25, tmp_path / "asked.json"), 24)
    assert all(1e-5 <= item.learning_rate <= 1e-2 for item in found)
    eligible = [item.learning_rate for item in found if world(item).worst_gap <= 0.25]
    assert 1e-3 <= min(eligible) < 1.5e-3
    late = [math.log10(item.learning_rate) + 3 for item in found[12:]]
    early = [math.log10(item.learning_rate) + 3 for item in found[:8]]
    assert sum(map(abs, late)) / len(late) < sum(map(abs, early)) / len(early)


def test_cut_off_it_goes_on_as_it_would_have(tmp_path):
    whole = run(Search(file(10), 0.25, tmp_path / "whole.json"), 10)
    run(Search(file(10), 0.25, tmp_path / "cut.json"), 6)
    assert run(Search(file(10), 0.25, tmp_path / "cut.json"), 10) == whole
    assert run(Search(file(10, search_seed=1), 0.25, tmp_path / "other.json"), 10) != whole


def test_it_ends_and_what_diverged_is_not_asked_for_again_and_again(tmp_path):
    search = Search(
        file(12, learning_rate=[1e-3], hyperparameters={"beta": [0.1, 0.2]}, method="npo,durable"), 0.25, tmp_path / "a"
    )
    seen = []
    while (setting := search.ask()) is not None:
        seen.append(setting.method)
        broken = setting.method == "durable"
        search.tell(
            setting,
            told(setting, 0.0, 0.9)
            if not broken
            else SettingSummary(1, "s", "durable", 1e-3, {}, 1, (), None, None, None),
        )
        assert 0.1 <= setting.hyperparameters["beta"] <= 0.2
        assert setting.learning_rate == 1e-3
    assert len(seen) == 12
    assert seen[6:].count("durable") < 3


def test_references_stand_outside_and_are_given_once(tmp_path):
    search = Search(file(8, method=["npo", "retrain", "simnpo"]), 0.25, tmp_path / "a")
    assert search.total == 9
    seen = []
    while (setting := search.ask()) is not None:
        seen.append(setting.method)
        kept = 1.0 if setting.method == "retrain" else 0.5  # which would win if it were told
        search.tell(setting, told(setting, 0.0, kept))
    assert seen[0] == "retrain"
    assert len(seen) == 9
    assert set(seen[1:]) <= {"npo", "simnpo"}
    with pytest.raises(InputError, match="beside the references"):
        Search(file(8, method=["retrain"]), 0.25, tmp_path / "a")


def test_what_was_asked_of_another_space_is_dropped(tmp_path):
    asked = tmp_path / "asked.json"
    wide = run(Search(file(6), 0.25, asked), 6)
    assert Search(file(6), 0.25, asked).decided() == wide
    narrow = Search(file(6, learning_rate=[1e-4, 1e-3]), 0.25, asked)
    assert any(not 1e-4 <= item.learning_rate <= 1e-3 for item in wide)
    assert narrow.decided() == []
    assert all(1e-4 <= item.learning_rate <= 1e-3 for item in run(narrow, 6))
    more = Search(file(6, learning_rate=[1e-4, 1e-3], hyperparameters={"beta": [0.1, 0.2]}), 0.25, asked)
    assert more.decided() == []
    run(more, 6)
    text = {"method": "durable", "learning_rate": [1e-3], "hyperparameters": {"roundings": ["int4-row", "nf4"]}}
    run(Search(file(6, **text), 0.25, asked), 6)
    other = Search(file(6, **{**text, "hyperparameters": {"roundings": ["int8", "nf4"]}}), 0.25, asked)
    assert {item.hyperparameters["roundings"] for item in run(other, 6)} <= {"int8", "nf4"}


def test_text_is_one_of_its_values(tmp_path):
    search = Search(file(6, method="durable", hyperparameters={"roundings": ["int4-row", "nf4"]}), 0.25, tmp_path / "a")
    assert {search.ask().hyperparameters["roundings"] for _ in range(6)} <= {"int4-row", "nf4"}


def test_a_sweep_by_search_ends_with_the_best_it_tried(sweep_world, tmp_path):
    asked = sweep_world.file(search=3, learning_rate=[1e-4, 3e-3], fresh_seeds=[5], unlearn={"steps": 8})
    view = sweep(asked, tmp_path)
    assert len(view.settings) == 3
    assert len({item.learning_rate for item in view.settings}) == 3
    eligible = [item for item in view.settings if item.worst_gap <= view.epsilon]
    assert view.chosen == max(eligible, key=lambda item: item.retention.value).name
    assert [row["seed"] for row in view.rows if row["fresh"]] == [5]
    before = [row["name"] for row in view.rows]
    assert [row["name"] for row in sweep(asked, tmp_path).rows] == before


def test_a_search_with_a_reference_runs_it_once_with_each_seed(sweep_world, tmp_path):
    unlearn = {"steps": 1, "base": str(sweep_world.model.parent.parent / "base")}
    asked = sweep_world.file(
        method=["npo", "retrain"], search=2, learning_rate=[1e-4, 3e-3], unlearn=unlearn, audit={"at": "full"}
    )
    view = sweep(asked, tmp_path)
    assert [(row["method"], row["reference"]) for row in view.rows] == [("retrain", True)] + [("npo", False)] * 2
    assert view.planned == 3
    assert [item.method for item in view.references] == ["original", "retrain"]


def test_a_search_that_is_stopped_again_keeps_what_ended_before_on_its_page(sweep_world, tmp_path, monkeypatch):
    import remanent.jobs.sweep_trial as module

    asked = sweep_world.data(search=2, learning_rate=[1e-4, 3e-3], unlearn={"steps": 1}, audit={"at": "full"})
    before = sweep(SweepFile.model_validate(asked), tmp_path).rows

    def stop(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_audit", stop)
    asked["sweep"]["seeds"] = [1, 0]  # seed 1 is new, and comes first
    with pytest.raises(KeyboardInterrupt):
        sweep(SweepFile.model_validate(asked), tmp_path)
    assert read_json(tmp_path / "sweep.json")["trials"] == list(before)


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    def missing(name, *rest):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"remanent\[search\]"):
        Search(file(2), 0.25, tmp_path / "a")
