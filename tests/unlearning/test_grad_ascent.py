from __future__ import annotations

import pytest
import torch

from remanent.unlearning.grad_ascent import GradAscent, method


def test_by_hand(answers, taken):
    batch = answers([1.0, 2.0], [6.0])
    # Minus the mean over the three tokens, not over the two records.
    (loss,) = taken(GradAscent(), forget=batch).values()
    assert loss.item() == pytest.approx(-3.0)
    loss.backward()
    assert batch[1].nll.grad.tolist() == pytest.approx([-1 / 3] * 3)


def test_it_has_no_retain_term_and_no_reference():
    assert method().roles == ("forget",)
    assert not GradAscent().needs_reference
    assert GradAscent().losses({}, None) == {}


def test_a_step_raises_the_loss_on_forget(tiny_llama, make_batch, mean_loss):
    from remanent.core.update import Update

    model, batch = tiny_llama(), make_batch(4)
    update = Update(model, method(), torch.optim.SGD(model.parameters(), lr=0.05), steps=1)
    before = mean_loss(model, batch).item()
    assert update({"forget": batch})["forget@full"] == pytest.approx(-before)
    assert mean_loss(model, batch).item() > before
