"""Evaluations, references and what a rule decides from them: the same in any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import launched

SCRIPT = Path(__file__).with_name("sharing_processes.py")
RUNS = ("to the end", "stopped", "of its own", "by itself", "resumed")


FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of so many processes found; each number is launched once."""
    folder, made = tmp_path_factory.mktemp("sharing"), {}

    def of(count):
        if count not in made:
            launched(SCRIPT, count, folder)
            made[count] = [json.loads((folder / f"{count}-{rank}.json").read_text()) for rank in range(count)]
        return made[count]

    return of


@pytest.mark.parametrize("count", [2, FOUR])  # of three batches, and of one
def test_what_is_known_is_bit_for_bit_what_one_process_finds(found, count):
    (alone,) = found(1)
    for each in found(count):
        assert each["known"] == alone["known"]
        assert each["reference"] == alone["reference"] == each["cached"]


@pytest.mark.parametrize("count", [2, FOUR])
def test_each_batch_is_passed_through_once(found, count):
    (alone,) = found(1)
    assert alone["passes"] == 2 * (3 + 3 + 1)
    made = [each["passes"] for each in found(count)]
    assert sum(made) == alone["passes"]
    assert made == {2: [2 * (2 + 2 + 1), 2 * (1 + 1)], 4: [2 * 3, 2 * 2, 2 * 2, 0]}[count]


@pytest.mark.parametrize("count", [2, FOUR])
@pytest.mark.parametrize("run", RUNS)
def test_all_processes_decide_alike_and_keep_the_same_weights(found, count, run):
    first, *others = (each[run] for each in found(count))
    assert all(other == first for other in others)


@pytest.mark.parametrize("count", [2, FOUR])
@pytest.mark.parametrize("run", RUNS)
def test_they_decide_what_one_process_decides(found, count, run):
    """Gradients are added up in another order, so that figures agree to that and decisions exactly."""
    (alone,) = (each[run] for each in found(1))
    several = found(count)[0][run]
    assert {name: several[name] for name in ("steps", "stopped", "best_step")} == {
        name: alone[name] for name in ("steps", "stopped", "best_step")
    }
    for one, other in zip(several["evaluations"], alone["evaluations"], strict=True):
        assert (one["step"], one["reached"]) == (other["step"], other["reached"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, FOUR])
def test_the_weights_kept_are_those_of_the_best_step_also_after_a_cut(found, count):
    for each in found(count):
        run = each["to the end"]
        best = max((item for item in run["evaluations"] if item["step"] > 0), key=lambda item: item["score"])
        assert run["best_step"] == best["step"]
        assert 0 < best["step"] < run["steps"] == 12
        assert run["known"] == best["nll"]
        assert each["resumed"] == each["by itself"] == run


@pytest.mark.parametrize("count", [1, 2, FOUR])
def test_a_rule_that_is_met_stops_all(found, count):
    for each in found(count):
        assert each["stopped"]["stopped"]
        assert each["stopped"]["best_step"] == each["stopped"]["steps"] < 12
        assert (each["of its own"]["steps"], each["of its own"]["best_step"]) == (3, 3)  # as the first process says
