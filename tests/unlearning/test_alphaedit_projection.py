from __future__ import annotations

import pytest
import torch

from remanent.core.combine import project_off
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import DivergedError, InputError
from remanent.unlearning.alphaedit_projection import method
from remanent.unlearning.grad_diff import method as grad_diff


def gradients(model, chosen, batches):
    model.zero_grad()
    weights = Weights.of(model).trainable()
    Update(model, chosen, torch.optim.SGD(weights.values(), lr=0.0), steps=1).gradients(batches)
    return {name: weight.grad.clone() for name, weight in weights.items()}


@pytest.fixture
def batches(make_batch):
    return {"forget": make_batch(3), "retain": make_batch(4, seed=2)}


def test_an_update_is_the_projected_ascent_and_the_retain_descent(tiny_llama, batches):
    model = tiny_llama()
    forget = gradients(model, grad_diff(retain_weight=0.0), batches)
    retain = gradients(model, grad_diff(forget_weight=0.0), batches)
    with_loss, without = (gradients(model, method(rank=5, retain_loss=on), batches) for on in (True, False))
    for name in forget:
        left = forget[name] if forget[name].dim() < 2 else project_off(forget[name], retain[name], 5)
        torch.testing.assert_close(without[name], left, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(with_loss[name], left + retain[name], rtol=1e-4, atol=1e-6)


def test_the_published_rank_leaves_nothing_of_the_forget_gradient_on_a_lora(tiny_llama, lora, batches):
    """A fresh LoRA's first factor has no gradient, and its second has fewer columns than 128: no matrix moves."""
    model = lora(tiny_llama(), fresh=True)
    found = gradients(model, method(retain_loss=False), batches)
    assert not any(gradient.any() for gradient in found.values())
    assert any(gradient.any() for gradient in gradients(model, method(rank=2, retain_loss=False), batches).values())


@pytest.mark.parametrize("retain_loss", [True, False])
def test_a_gradient_that_is_not_finite_is_told_as_divergence(tiny_llama, batches, retain_loss):
    model = tiny_llama()
    only_retain = set(batches["retain"].input_ids.flatten().tolist()) - set(
        batches["forget"].input_ids.flatten().tolist()
    )

    def broken(module, inputs, states):
        wrong = (inputs[0] == max(only_retain))[..., None]
        states.register_hook(lambda gradient: gradient.masked_fill(wrong, torch.nan))

    model.model.embed_tokens.register_forward_hook(broken)  # the retain gradient alone; every loss stays finite
    update = Update(model, method(retain_loss=retain_loss), torch.optim.SGD(model.parameters(), lr=0.0), steps=1)
    with pytest.raises(DivergedError, match="gradient_norm"):
        update(batches)


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="rank"):
        method(rank=0)
