from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from remanent.core.predict import Predict
from remanent.errors import InputError
from remanent.unlearning.undial import Undial, method


def test_by_hand(predicting):
    batch, _, before = predicting([[0]], [[math.log(6), math.log(3), 0.0]])
    # The answer's logit loses log 2: 3, 3 and 1 of 7.
    objective = Undial(beta=math.log(2))
    live = objective.at_reference({"forget": batch}, before)["forget"]
    assert live.exp().tolist()[0] == pytest.approx([3 / 7, 3 / 7, 1 / 7])
    _, logits, now = predicting([[0]], [[0.0, 0.0, math.log(2)]])  # 1/4, 1/4, 1/2
    loss = objective.losses({"forget": replace(batch, live=live)}, now)["forget"]
    assert loss.item() == pytest.approx(6 / 7 * math.log(4) + 1 / 7 * math.log(2), rel=1e-6)
    loss.backward()
    assert logits.grad.tolist()[0] == pytest.approx([1 / 4 - 3 / 7, 1 / 4 - 3 / 7, 1 / 2 - 1 / 7], rel=1e-5)


def test_without_beta_there_is_nothing_to_learn_at_the_reference(tiny_llama, make_batch):
    model, batch = tiny_llama(), make_batch(4)
    for beta, moves in ((0.0, False), (10.0, True)):
        model.zero_grad()
        objective = Undial(beta)
        with torch.no_grad():
            live = objective.at_reference({"forget": batch}, Predict(model))["forget"]
        objective.losses({"forget": replace(batch, live=live)}, Predict(model))["forget"].backward()
        largest = max(float(weight.grad.abs().max()) for weight in model.parameters())
        assert (largest > 1e-2) is moves, beta
        assert moves or largest < 1e-4


def test_it_is_smallest_where_the_target_is_met(predicting):
    """The loss is bounded by the target's entropy, and has no gradient there."""
    objective = Undial(beta=3.0)
    batch, _, before = predicting([[1, 2]], [[0.3, 2.0, -1.0], [0.0, 0.5, 4.0]])
    live = objective.at_reference({"forget": batch}, before)["forget"].detach()
    _, logits, now = predicting([[1, 2]], live.tolist())
    loss = objective.losses({"forget": replace(batch, live=live)}, now)["forget"]
    loss.backward()
    assert loss.item() == pytest.approx(torch.distributions.Categorical(logits=live).entropy().sum().item(), rel=1e-5)
    assert logits.grad.abs().max() < 1e-6


def test_only_scored_positions_count(tiny_llama, make_batch):
    """Prompt and padding have no say, and no other token is lowered in a label's place."""
    model, reference, batch = tiny_llama(), tiny_llama(seed=1), make_batch(4)
    with torch.no_grad():
        live = Undial(10.0).at_reference({"forget": batch}, Predict(reference))["forget"]
        found = Undial(10.0).losses({"forget": replace(batch, live=live)}, Predict(model))["forget"]
        expected = 0.0
        logits, before = (
            each(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits for each in (model, reference)
        )
        for row, column in (batch.labels != -100).nonzero().tolist():
            wanted = before[row, column - 1].clone()
            wanted[batch.labels[row, column]] -= 10.0
            expected += functional.cross_entropy(logits[row, column - 1], wanted.softmax(dim=-1)).item()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_it_asks_for_retain_records_only_where_they_weigh_something():
    assert method().roles == ("forget",)
    chosen = method(retain_weight=2.0)
    assert chosen.roles == ("forget", "retain")
    assert chosen.weights == {"forget": 1.0, "retain": 2.0}


def test_bad_input(answers):
    with pytest.raises(InputError, match="beta"):
        Undial(-1.0)
    batch, known = answers([1.0])
    with pytest.raises(InputError, match="live"):
        Undial().losses({"forget": batch}, lambda given: known.scores)
