from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import AdapterOff
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError


def logits(model, batch):
    with torch.no_grad():
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


def test_the_base_answers_and_the_adapter_is_back_afterwards(tiny_llama, lora, make_batch, snapshot, same_bits):
    batch = make_batch(3)
    expected = logits(tiny_llama(), batch)
    model = lora(tiny_llama())
    before = snapshot(model)
    assert not torch.equal(logits(model, batch), expected)
    with AdapterOff().at(model):
        assert torch.equal(logits(model, batch), expected)
    assert same_bits(snapshot(model), before)


def test_only_the_second_factors_move(tiny_llama, lora):
    model = lora(tiny_llama())
    moved = list(AdapterOff().moving(Weights.of(model)))
    assert moved == [name for name, _ in model.named_parameters() if ".lora_B." in name]


def test_biases_of_the_adapter_are_off_too(tiny_llama, lora, make_batch):
    batch = make_batch(3)
    model = lora(tiny_llama(), lora_bias=True)
    with AdapterOff().at(model):
        assert torch.equal(logits(model, batch), logits(tiny_llama(), batch))


def test_a_model_without_a_lora_is_an_error(tiny_llama):
    with pytest.raises(InputError, match="has none"), AdapterOff().at(tiny_llama()):
        pass


def test_what_zeros_would_leave_on_is_refused(tiny_llama, lora):
    with (
        pytest.raises(UnsupportedError, match="modules_to_save"),
        AdapterOff().at(lora(tiny_llama(tied=False), target_modules=["q_proj"], modules_to_save=["lm_head"])),
    ):
        pass
    with (
        pytest.raises(UnsupportedError, match="lora_magnitude_vector"),
        AdapterOff().at(lora(tiny_llama(), use_dora=True)),
    ):
        pass
    merged = lora(tiny_llama())
    merged.merge_adapter()
    with pytest.raises(UnsupportedError, match="merged"), AdapterOff().at(merged):
        pass
