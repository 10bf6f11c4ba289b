from __future__ import annotations

import math

import pytest
import torch

from remanent.core.displacement import Relearning, Rounding, Then
from remanent.errors import DivergedError, InputError, UnsupportedError


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_it_is_a_hand_written_adamw_loop_bit_for_bit(autocast, tiny_gpt2, make_records, mean_loss, snapshot, same_bits):
    from remanent.core.batch import collate

    records = make_records(6)
    batches = [collate(records, [0, 1, 2], 0), collate(records, [3, 4, 5], 0)]
    by_hand = tiny_gpt2(dropout=0.2)
    by_hand.train()
    torch.manual_seed(5)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            loss = mean_loss(by_hand, batches[step % 2])
        loss.backward()
        optimizer.step()
    model = tiny_gpt2(dropout=0.2)
    with Relearning(batches, 3, learning_rate=1e-2, seed=5, autocast=autocast).at(model):
        assert same_bits(snapshot(model), snapshot(by_hand))
        assert not any(module.training for module in model.modules())


def test_modes_gradients_and_frozen_weights_stay(tiny_llama, make_batch):
    model = tiny_llama(tied=False)
    model.model.layers[0].eval()
    model.lm_head.train()
    model.model.embed_tokens.weight.requires_grad_(False)
    gradient = model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    modes = [module.training for module in model.modules()]
    embedding, head = model.model.embed_tokens.weight.detach().clone(), model.lm_head.weight.detach().clone()
    with Relearning([make_batch(4)], 2, learning_rate=1e-2).at(model):
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(model.model.embed_tokens.weight, embedding)
        assert not torch.equal(model.lm_head.weight, head)
        assert model.lm_head.weight.grad is None
    assert model.lm_head.weight.grad is gradient
    assert not model.model.embed_tokens.weight.requires_grad


def test_it_learns(tiny_llama, make_batch, mean_loss):
    model, batch = tiny_llama(), make_batch(4)
    with torch.no_grad():
        before = mean_loss(model, batch)
        with Relearning([batch], 10, learning_rate=1e-2).at(model):
            relearned = mean_loss(model, batch)
        with Then(Relearning([batch], 10, learning_rate=1e-2), Rounding("int4")).at(model):
            rounded = mean_loss(model, batch)
    assert relearned < before / 2
    assert relearned < rounded < before


def test_divergence_is_named_and_nothing_stays(tiny_llama, make_batch, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    with pytest.raises(DivergedError, match="step 2 of 3"), Relearning([make_batch(4)], 3, math.inf).at(model):
        pass
    assert same_bits(snapshot(model), before)


def test_bad_settings(tiny_llama, make_batch):
    with pytest.raises(InputError, match="steps"):
        Relearning([make_batch(1)], 0)
    with pytest.raises(InputError, match="batches"):
        Relearning([], 1)
    with (
        pytest.raises(UnsupportedError, match="no weight"),
        Relearning([make_batch(1)], 1).at(tiny_llama().requires_grad_(False)),
    ):
        pass
    weights = torch.optim.SGD(tiny_llama().parameters(), lr=0.1).param_groups
    from remanent.core.weights import Weights

    with pytest.raises(UnsupportedError, match="param_groups"), Relearning([make_batch(1)], 1).at(Weights.of(weights)):
        pass
