"""What a sweep varies, what it costs, and what it is called: no model is loaded."""

from __future__ import annotations

import pytest

from remanent.data.record import Message, Record
from remanent.errors import InputError
from remanent.jobs.config import DataSettings, UnlearnSettings
from remanent.jobs.data import JobData
from remanent.jobs.sweep_config import SweepFile
from remanent.jobs.sweep_space import axes, grid, passes, trial
from remanent.jobs.unlearn import build_method

SIZES = {"forget": 10, "retain": 20, "task": 40}


def records(count):
    return [Record(str(n), str(n), (Message("user", "Q?"),), "A.") for n in range(count)]


DATA = JobData(records(10), {"train": records(20), "select": records(10), "audit": records(10)}, {}, [])


def file(unlearn=None, **sweep):
    shared = {"model": "m", "data": {"forget": "f", "retain": "r", "control": "c"}, **(unlearn or {})}
    return SweepFile.model_validate({"sweep": sweep, "unlearn": shared})


def method(name, **settings):
    return build_method(UnlearnSettings(model="m", data=DataSettings(), method=name, **settings))


@pytest.mark.parametrize(
    ("name", "each"),
    [("npo", 4 + 4), ("durable", 2 * (4 + 4)), ("grad-ascent", 4), ("retrain", 4)],
)
def test_passes_are_records_of_each_role_at_each_point(name, each):
    assert passes(method(name), SIZES, 5, 4) == 5 * each


def test_a_point_that_is_not_yet_visited_costs_nothing():
    # DurableUn-SAF: forget and retain here, forget at the rounded point once a third of the run is over.
    assert passes(method("durableun-saf"), SIZES, 9, 4) == 9 * 8 + 6 * 4


def test_what_a_method_passes_before_its_first_update_counts():
    # 3 epochs of 10 records in batches of 4 are 8 of them; then 5 updates.
    assert passes(method("whp"), SIZES, 5, 4) == 8 * 4 + 5 * 4
    assert passes(method("salun"), SIZES, 5, 4) == 10 + 5 * (4 + 4)
    assert passes(method("salun", hyperparameters={"share": 1.0}), SIZES, 5, 4) == 5 * (4 + 4)


def test_a_budget_holds_what_comes_before_the_first_update():
    by_steps = file({"batch_size": 4}, budget=52, method="whp")
    found = trial(by_steps, grid(by_steps)[0], 0, DATA)
    assert (found.unlearn.steps, found.passes) == (5, 8 * 4 + 5 * 4)
    by_batch = file({"steps": 5}, budget=50, method="whp")
    found = trial(by_batch, grid(by_batch)[0], 0, DATA)
    assert (found.unlearn.batch_size, found.passes) == (3, 10 * 3 + 5 * 3)
    short = file({"batch_size": 4}, budget=35, method="whp")
    with pytest.raises(InputError, match=r"at least 36 passes.* 32 of them before its first update"):
        trial(short, grid(short)[0], 0, DATA)


def test_a_batch_is_no_larger_than_its_set():
    assert passes(method("npo"), SIZES, 1, 16) == 10 + 16


def test_a_budget_gives_a_method_with_two_points_half_the_steps():
    found = {
        item.method: trial(file({"batch_size": 4}, budget=160), item, 0, DATA)
        for item in grid(file(method=["npo", "durable"]))
    }
    assert {name: (item.unlearn.steps, item.unlearn.batch_size) for name, item in found.items()} == {
        "npo": (20, 4),
        "durable": (10, 4),
    }
    assert {item.passes for item in found.values()} == {160}


def test_a_budget_with_steps_gives_it_half_the_batch():
    asked = file({"steps": 20}, budget=160, method="npo,durable")
    found = [trial(asked, item, 0, DATA) for item in grid(asked)]
    assert [(item.unlearn.steps, item.unlearn.batch_size, item.passes) for item in found] == [
        (20, 4, 160),
        (20, 2, 160),
    ]


@pytest.mark.parametrize(
    ("unlearn", "budget", "field"),
    [
        ({"batch_size": 4}, 7, "budget"),
        ({"steps": 20}, 39, "budget"),
        ({"epochs": 2.0}, 100, "epochs"),
        ({"steps": 2, "batch_size": 2}, 100, "steps"),
    ],
)
def test_a_budget_that_cannot_be_kept(unlearn, budget, field):
    asked = file(unlearn, budget=budget, method="npo")
    with pytest.raises(InputError, match=field):
        trial(asked, grid(asked)[0], 0, DATA)


def test_hyperparameters_go_to_the_methods_that_have_them():
    found = axes(
        file(method="npo,simnpo,grad-ascent", retain_weight=[1, 8], hyperparameters={"beta": 0.1, "npo.beta": [0.5]})
    )
    assert found["npo"] == {"beta": (0.5,), "retain_weight": (1.0, 8.0)}
    assert found["simnpo"]["beta"] == (0.1,)
    assert found["grad-ascent"] == {}


def test_a_method_that_is_put_round_another_takes_that_ones_too():
    asked = file(
        {"batch_size": 4}, method=["gu", "npo"], hyperparameters={"objective": ["npo"], "host.beta": [0.1, 0.5]}
    )
    found = [trial(asked, item, 0, DATA) for item in grid(asked)]
    assert [dict(item.unlearn.hyperparameters) for item in found] == [
        {"objective": "npo", "host.beta": 0.1},
        {"objective": "npo", "host.beta": 0.5},
        {},
    ]
    shared = file({"hyperparameters": {"objective": "npo", "host.beta": 0.7}}, method=["gu"], retain_weight=[2])
    assert grid(shared)[0].hyperparameters["host.beta"] == 0.7
    mixed = file(
        {"batch_size": 4}, method=["gu"], hyperparameters={"objective": ["npo", "simnpo"], "host.delta": [0.1]}
    )
    with pytest.raises(InputError, match=r"host\.delta"):  # NPO has none
        trial(mixed, grid(mixed)[0], 0, DATA)


def test_a_grid_is_every_combination_and_each_once():
    asked = file(
        method="npo,grad-ascent",
        retain_weight=[1, 8, 8],
        learning_rate=[1e-5, 3e-5],
        hyperparameters={"beta": [0.1, 0.2]},
    )
    assert len(grid(asked)) == 2 * 2 * 2 + 2
    assert [item.method for item in grid(file(unlearn={"method": "simnpo"}))] == ["simnpo"]


def test_the_shared_hyperparameters_hold_where_nothing_varies():
    asked = file({"hyperparameters": {"beta": 0.7, "retain_weight": 3.0}}, method="npo,grad-ascent", retain_weight=[2])
    npo, ascent = grid(asked)
    assert dict(npo.hyperparameters) == {"beta": 0.7, "retain_weight": 2.0}
    assert dict(ascent.hyperparameters) == {}


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"method": "npoo"}, "did you mean 'npo'"),
        ({"method": "npo", "hyperparameters": {"betta": [1.0]}}, "did you mean 'beta'"),
        ({"method": "npo", "retain_weight": [1], "hyperparameters": {"retain_weight": [1.0]}}, "not both"),
        ({"method": "npo", "hyperparameters": {"beta": []}}, "at least one value"),
        (
            {"method": "npo", "learning_rate": [1e-5, 1e-4], "own": {"npo": {"learning_rate": 1e-3}}},
            r"sweep\.own\.npo\.learning_rate: got 0\.001; expected nothing, since the sweep varies it: 1e-05, 0\.0001",
        ),
        (
            {"method": "npo", "retain_weight": [1], "own": {"npo": {"hyperparameters": {"retain_weight": 2}}}},
            r"sweep\.own\.npo\.retain_weight",
        ),
    ],
)
def test_what_cannot_vary_is_said(sweep, message):
    with pytest.raises(InputError, match=message):
        axes(file(**sweep))


def test_a_shared_hyperparameter_that_no_method_has_is_said():
    asked = file({"hyperparameters": {"betta": 0.7}}, method="npo,grad-ascent")
    with pytest.raises(InputError, match=r"unlearn\.hyperparameters: got 'betta'.*did you mean 'beta'.* for npo, grad"):
        axes(asked)


def test_nothing_of_a_reference_varies_in_a_search():
    own = {"retrain": {"learning_rate": 0.5}}
    asked = file({"base": "b"}, method="npo,retrain", learning_rate=[1e-5, 1e-2], search=3, own=own)
    assert axes(asked) == {"npo": {"learning_rate": (1e-5, 1e-2)}, "retrain": {}}
    assert [item.learning_rate for item in grid(asked) if item.method == "retrain"] == [0.5]


def test_text_with_commas_is_one_value():
    asked = file(method="durable", hyperparameters={"roundings": "int4-row,nf4"})
    assert dict(grid(asked)[0].hyperparameters) == {"roundings": "int4-row,nf4"}


def test_a_trial_is_named_by_all_but_its_seed():
    asked = file(method="npo", learning_rate=[1e-5, 3e-5])
    first, second = grid(asked)
    assert trial(asked, first, 0, DATA).setting == trial(asked, first, 5, DATA).setting
    assert trial(asked, first, 0, DATA).name != trial(asked, first, 5, DATA).name
    assert trial(asked, first, 0, DATA).setting != trial(asked, second, 0, DATA).setting
    audited = asked.model_copy(update={"audit": {"at": "full"}})
    assert trial(audited, first, 0, DATA).setting != trial(asked, first, 0, DATA).setting


def test_an_edit_takes_nothing_of_a_training_and_must_be_within_the_budget():
    asked = file({"batch_size": 4, "learning_rate": 1e-3}, method=["npo", "ssd"], learning_rate=[1e-3], budget=160)
    (edit,) = [item for item in grid(asked) if item.method == "ssd"]
    found = trial(asked, edit, 0, DATA)
    assert (found.unlearn.learning_rate, found.unlearn.batch_size, found.unlearn.steps) == (None, None, None)
    assert found.passes == 10 + (10 + 20)  # forget by itself, and everything
    with pytest.raises(InputError, match="at least 40 passes"):
        trial(file(method=["ssd"], budget=39), edit, 0, DATA)


def test_retraining_is_a_reference_outside_the_budget():
    asked = file({"base": "b", "batch_size": 4, "steps": None}, method=["retrain"], budget=16)
    found = trial(asked, grid(asked)[0], 0, DATA)
    assert found.reference
    assert found.passes > 16


def test_a_methods_own_settings_replace_the_shared_ones():
    own = {"npo": {"learning_rate": 0.5, "schedule": "cosine", "hyperparameters": {"beta": 0.3}}}
    shared = {"learning_rate": 0.1, "schedule": "linear", "hyperparameters": {"beta": 0.2}}
    asked = file(shared, method=["npo", "durable"], own=own)
    found = {item.method: trial(asked, item, 0, DATA).unlearn for item in grid(asked)}
    assert (found["npo"].learning_rate, found["npo"].schedule, found["npo"].hyperparameters["beta"]) == (
        0.5, "cosine", 0.3
    )  # fmt: skip
    assert (found["durable"].learning_rate, found["durable"].schedule) == (0.1, "linear")
    assert found["durable"].hyperparameters["beta"] == 0.2
    with pytest.raises(InputError, match="one of the methods"):
        grid(file(method=["npo"], own={"durable": {}}))
