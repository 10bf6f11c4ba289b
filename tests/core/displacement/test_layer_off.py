from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import LayerOff
from remanent.core.weights import Weights
from remanent.errors import InputError


def logits(model, batch):
    with torch.no_grad():
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


def zeroed(model, prefix):
    with torch.no_grad():
        for name, weight in Weights.of(model).items():
            if prefix in name:
                weight.zero_()
    return model


@pytest.mark.parametrize(("made", "prefix"), [("tiny_llama", "layers.1."), ("tiny_gpt2", ".h.1.")])
def test_it_is_the_model_with_the_layers_weights_at_zero(made, prefix, request, make_batch, snapshot, same_bits):
    make, batch = request.getfixturevalue(made), make_batch(4)
    model = make()
    before, whole = snapshot(model), logits(model, batch)
    with LayerOff(1).at(model):
        assert same_bits(snapshot(model), before)
        off = logits(model, batch)
    torch.testing.assert_close(off, logits(zeroed(make(), prefix), batch))
    assert not torch.equal(off, whole)
    assert torch.equal(logits(model, batch), whole)


def test_of_a_lora_the_adapter_of_the_layer_is_off_too(tiny_llama, lora, make_batch):
    batch = make_batch(3)
    with LayerOff(0).at(model := lora(tiny_llama())):
        off = logits(model, batch)
    torch.testing.assert_close(off, logits(zeroed(lora(tiny_llama()), "layers.0."), batch))


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_is_not_there_is_an_error(layer, tiny_llama):
    with pytest.raises(InputError, match="from 0 to 1"), LayerOff(layer).at(tiny_llama()):
        pass
