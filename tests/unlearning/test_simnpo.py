from __future__ import annotations

import math

import pytest
import torch

from remanent.unlearning.simnpo import SimNPO


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_by_hand(answers, taken):
    # Mean NLLs 1.5 and 6, beta 2, delta 1: arguments 1 and 10.
    losses = taken(SimNPO(beta=2.0, delta=1.0), forget=answers([1.0, 2.0], [6.0]), retain=answers([1.0, 2.0]))
    expected = -(2 / 2) * (math.log(sigmoid(1.0)) + math.log(sigmoid(10.0))) / 2
    assert losses["forget"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["forget"].item() == pytest.approx(0.156654, abs=1e-5)  # (0.313262 + 0.0000454) / 2
    assert losses["retain"].item() == pytest.approx(1.5)


@pytest.mark.parametrize("length", [1, 4])
def test_its_weight_on_a_token_is_2_sigmoid_minus_beta_mean_over_the_length(length, answers, taken):
    batch = answers([0.6] * length)
    taken(SimNPO(beta=1.5), forget=batch)["forget"].backward()
    weight = 2 * sigmoid(-1.5 * 0.6) / length
    assert batch[1].nll.grad.tolist() == pytest.approx([-weight] * length, rel=1e-5)


def test_a_long_answer_counts_as_much_as_a_short_one(answers, taken):
    short, long = (taken(SimNPO(), forget=answers([0.6] * length))["forget"].item() for length in (1, 7))
    assert long == pytest.approx(short, rel=1e-5)


def test_it_needs_no_reference(answers, taken):
    assert not SimNPO().needs_reference
    assert taken(SimNPO(), forget=answers([1.0]))["forget"].isfinite()


def test_a_record_without_a_scored_token_is_a_constant(answers, taken):
    batch = answers([1.0, 1.0], [])
    loss = taken(SimNPO(beta=2.0), forget=batch)["forget"]
    loss.backward()
    assert loss.isfinite()
    assert torch.isfinite(batch[1].nll.grad).all()
