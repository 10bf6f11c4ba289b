from __future__ import annotations

import math

import pytest
import torch

from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.grad_diff import method as grad_diff
from remanent.unlearning.wga import WGA, method


def test_by_hand(answers, taken):
    # p = 1/2 and 1/4, weights sqrt(p): -(0.707107 log 2 + 0.5 log 4) / 2.
    batch = answers([math.log(2), math.log(4)])
    loss = taken(WGA(beta=0.5), forget=batch)["forget"]
    assert loss.item() == pytest.approx(-(math.sqrt(0.5) * math.log(2) + 0.5 * math.log(4)) / 2)
    assert loss.item() == pytest.approx(-0.591638, abs=1e-5)
    loss.backward()
    assert batch[1].nll.grad.tolist() == pytest.approx(
        [-math.sqrt(0.5) / 2, -0.25]
    )  # the weights, nothing through them


@pytest.mark.parametrize("nll", [20.0, 1e4])
def test_a_forgotten_token_is_left_alone(nll, answers, taken):
    batch = answers([0.1, nll])
    loss = taken(WGA(), forget=batch)["forget"]
    loss.backward()
    assert math.isfinite(loss.item())
    assert abs(batch[1].nll.grad[1]) < 1e-8
    assert abs(batch[1].nll.grad[0]) > 0.4


def test_without_beta_it_is_gradient_difference(tiny_llama, make_batch, snapshot, same_bits):
    batches = {"forget": make_batch(4, seed=1), "retain": make_batch(4, seed=2)}
    found = []
    for chosen in (method(beta=0.0), grad_diff()):
        model = tiny_llama()
        Update(model, chosen, torch.optim.AdamW(model.parameters(), lr=1e-3), steps=1)(batches)
        found.append(snapshot(model))
    assert same_bits(*found)


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_bad_beta(beta):
    with pytest.raises(InputError, match="beta"):
        WGA(beta)
