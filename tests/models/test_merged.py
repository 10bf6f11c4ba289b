"""A LoRA merged, and another model in its terms: halfway the logits are those of the merged weights' mean."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from remanent.core.displacement import Interpolation
from remanent.core.weights import Weights
from remanent.errors import UnsupportedError
from remanent.models.lora import add_lora
from remanent.models.merged import as_adapted, merged_weights


def moved_lora(model, seed, scale=0.1):
    adapted = add_lora(model, rank=2, seed=seed).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale, generator=torch.Generator().manual_seed(seed))
    return adapted


@pytest.mark.parametrize("other", ["base", "full", "lora"])
def test_half_way_is_the_mean_of_both_merged(tiny_llama, make_batch, other, snapshot, same_bits):
    plain = tiny_llama()
    model = moved_lora(deepcopy(plain), 1)
    there = deepcopy(plain)
    if other == "full":
        for weight in there.parameters():
            weight.data.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    elif other == "lora":
        there = moved_lora(there, 2)
    kept = snapshot(there)
    ends = merged_weights(there), merged_weights(model)
    assert same_bits(snapshot(there), kept)
    before = as_adapted(model, ends[0])
    assert set(before) == set(Weights.of(model))
    ids = make_batch(2).input_ids
    mean = deepcopy(plain)
    mean.load_state_dict({name: (first + ends[1][name]) / 2 for name, first in ends[0].items()}, strict=False)
    with torch.no_grad(), Interpolation(before, 0.5).at(model):
        torch.testing.assert_close(model(ids).logits, mean(ids).logits, atol=1e-5, rtol=1e-4)
    with torch.no_grad(), Interpolation(before, 1.0).at(model):
        torch.testing.assert_close(model(ids).logits, there(ids).logits, atol=1e-5, rtol=1e-4)


def test_weights_of_a_model_without_a_lora_are_its_own(tiny_llama):
    model = tiny_llama()
    found = merged_weights(model)
    assert all(torch.equal(found[name], weight) for name, weight in Weights.of(model).items())


def test_a_dora_is_refused(tiny_llama, lora):
    model = lora(tiny_llama(), use_dora=True)
    with pytest.raises(UnsupportedError, match="DoRA"):
        as_adapted(model, merged_weights(tiny_llama()))
