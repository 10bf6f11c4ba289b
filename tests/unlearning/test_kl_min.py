from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.predict import Predict
from remanent.core.scores import AnswerScores
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.grad_ascent import GradAscent
from remanent.unlearning.kl_min import KLMin, method


def scored(batch, distribution):
    rows = torch.tensor([0, 1])
    return lambda given: AnswerScores(distribution[:, 0], rows, rows > 0, distribution, len(given))


def test_by_hand(answers, taken):
    retain, _ = answers([1.0], [1.0])
    before, now = torch.tensor([[0.5, 0.5], [0.8, 0.2]]), torch.tensor([[0.25, 0.75], [0.8, 0.2]])
    batch = replace(retain, live=before.log())
    total = KLMin().losses({"retain": batch}, scored(batch, now.log()))["retain"]
    # 0.5 log 2 + 0.5 log (2/3) at the first position, nothing at the second.
    assert total.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)
    assert total.item() == pytest.approx(0.143841, abs=1e-5)
    assert taken(KLMin(), forget=answers([1.0, 2.0], [6.0]))["forget"].item() == pytest.approx(-3.0)


def test_its_forget_term_is_gradient_ascent(answers, taken):
    batch = answers([0.3, 2.0], [6.0], [0.1, 0.2, 0.3])
    assert taken(KLMin(), forget=batch)["forget"] == taken(GradAscent(), forget=batch)["forget"]


def test_at_the_reference_the_retain_term_is_0_and_pulls_nowhere(tiny_llama, make_batch):
    model, batch = tiny_llama(), make_batch(4)
    with torch.no_grad():
        live = KLMin().at_reference({"retain": batch}, Predict(model))["retain"]
    loss = KLMin().losses({"retain": replace(batch, live=live)}, Predict(model))["retain"]
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert max(float(weight.grad.abs().max()) for weight in model.parameters()) < 1e-4


def test_only_scored_positions_count(tiny_llama):
    """Of a prompt and of padding the model may say what it likes."""
    before, now = tiny_llama(), tiny_llama(seed=1)
    short = Encoded((5, 6, 7), (IGNORED, IGNORED, 7))
    alone, padded = (collate([short, other], [0, 1], 0) for other in (short, Encoded((5,) * 9, (IGNORED,) * 8 + (5,))))
    losses = []
    for batch in (alone, padded):
        rows = batch.labels.clone()
        rows[1] = IGNORED
        batch = replace(batch, labels=rows)
        with torch.no_grad():
            live = KLMin().at_reference({"retain": batch}, Predict(before))["retain"]
        assert live.shape[0] == 1
        losses.append(KLMin().losses({"retain": replace(batch, live=live)}, Predict(now))["retain"].item())
    assert losses[0] > 0.01
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_reference_is_the_model_before_training(tiny_llama, make_batch):
    model = tiny_llama()
    chosen = method()
    update = Update(model, chosen, torch.optim.SGD(model.parameters(), lr=0.5), steps=2)
    batches = {"forget": make_batch(3), "retain": make_batch(4, seed=2)}
    first, second = update(batches), update(batches)
    assert first["retain@full"] == pytest.approx(0.0, abs=1e-5)
    assert second["retain@full"] > 0.01


def test_without_the_reference_it_says_so(answers):
    batch, known = answers([1.0])
    with pytest.raises(InputError, match="reference"):
        KLMin().losses({"retain": batch}, lambda given: known.scores)


def test_weights_reach_the_composition():
    assert method(forget_weight=0.5, retain_weight=2.0).weights == {"forget": 0.5, "retain": 2.0}
