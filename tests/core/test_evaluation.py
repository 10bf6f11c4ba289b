from __future__ import annotations

import pytest
import torch

from remanent.core import evaluation
from remanent.core.displacement import Here, Rounding
from remanent.core.evaluation import Evaluation, ForgetAtControl, known
from remanent.core.scores import score_records


def test_known_is_the_mean_over_records_of_their_token_means(tiny_llama, make_records):
    model, sets = tiny_llama(), {"forget": make_records(4, seed=1), "control": make_records(6, seed=2)}
    found = known(model, sets, [Here(), Rounding("int4")], pad_id=0, batch_size=3)
    assert list(found) == ["full", "int4-row"]
    for point in (Here(), Rounding("int4")):
        with point.at(model):
            for name, records in sets.items():
                scores = score_records(model, records, pad_id=0)
                assert found[str(point)][name] == pytest.approx(float((scores.nll / scores.tokens).mean()), rel=1e-6)
    assert found["full"] != found["int4-row"]


@pytest.fixture
def measured(monkeypatch):
    """A rule at two points, and the queue of what it will find there."""
    queue = []
    monkeypatch.setattr(evaluation, "known", lambda *arguments, **options: queue.pop(0))
    return ForgetAtControl({}, [], pad_id=0, margin=0.1), queue


def at(full, low):
    names = ("forget", "control", "retain")
    return {"full": dict(zip(names, full, strict=True)), "int4": dict(zip(names, low, strict=True))}


def test_the_target_is_the_larger_control_and_must_be_reached_at_every_point(measured):
    rule, queue = measured
    queue += [
        at((0.1, 3.0, 0.2), (0.2, 2.0, 0.3)),  # before
        at((3.5, 2.5, 0.2), (1.8, 2.5, 0.3)),  # reached at full, at int4 0.7 below the control's 2.5
        at((2.95, 2.9, 0.5), (2.35, 2.4, 0.9)),  # 0.05 below the 3.0 of before, 0.05 below the 2.4 of now
        at((2.89, 2.0, 0.2), (9.0, 2.0, 0.3)),  # 0.11 below the 3.0 of before
    ]
    found = [rule(None, step) for step in range(4)]
    assert [item.reached for item in found] == [False, False, True, False]
    assert found[1].target == {"full": 3.0, "int4": 2.5}
    assert found[2].target == {"full": 3.0, "int4": 2.4}
    assert found[0].score == (0.0, pytest.approx(-2.9))
    assert found[1].score == (0.0, pytest.approx(-0.7))
    assert found[2].score == (1.0, pytest.approx(-0.6))  # what retain lost at the worse point
    assert max(found, key=lambda item: item.score) is found[2]


def test_among_those_that_reach_it_the_one_that_keeps_most_is_best(measured):
    rule, queue = measured
    queue += [at((0, 1, 0), (0, 1, 0)), at((5, 1, 0.4), (5, 1, 0.1)), at((5, 1, 0.2), (5, 1, 0.3))]
    _, first, second = (rule(None, step) for step in range(3))
    assert first.reached
    assert second.reached
    assert second.score > first.score


def test_its_state_is_what_was_measured_before_the_first_update(measured):
    rule, queue = measured
    before = at((0.1, 3.0, 0.2), (0.2, 2.0, 0.3))
    queue += [before, at((2, 2, 2), (2, 2, 2))]
    rule(None, 0)
    resumed = ForgetAtControl({}, [], pad_id=0, margin=0.1)
    resumed.load_state_dict(rule.state_dict())
    assert rule.state_dict() == {"before": before}
    assert resumed(None, 4).target == {"full": 3.0, "int4": 2.0}


def test_without_a_retain_set_it_still_judges(tiny_llama, make_records):
    sets = {"forget": make_records(3, seed=1), "control": make_records(3, seed=2)}
    found = ForgetAtControl(sets, [Here()], pad_id=0)(tiny_llama(), 0)
    assert found.reached == (found.nll["full"]["forget"] >= found.nll["full"]["control"])


def test_an_evaluation_is_plain_data():
    import json

    item = Evaluation(3, {"full": {"forget": 1.5}}, {"full": 2.0}, (0.0, -0.5), False)
    row = json.loads(json.dumps(item.to_dict()))
    assert row == {
        "step": 3,
        "kind": "evaluation",
        "nll": {"full": {"forget": 1.5}},
        "target": {"full": 2.0},
        "score": [0.0, -0.5],
        "reached": False,
    }


def test_evaluating_leaves_the_model_as_it_was(tiny_llama, make_records, snapshot, same_bits):
    model = tiny_llama().train()
    before = snapshot(model)
    sets = {name: make_records(3, seed=seed) for seed, name in enumerate(("forget", "control", "retain"))}
    ForgetAtControl(sets, [Here(), Rounding("int4")], pad_id=0, autocast=torch.bfloat16)(model, 0)
    assert same_bits(snapshot(model), before)
    assert model.training
