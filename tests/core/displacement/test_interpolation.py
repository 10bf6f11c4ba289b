from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import Interpolation
from remanent.core.weights import Weights
from remanent.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_are_reached_exactly(dtype, tiny_llama, snapshot, same_bits):
    model, other = tiny_llama(dtype=dtype), tiny_llama(dtype=dtype, seed=1)
    for t, end in ((0, model), (1, other)):
        expected = snapshot(end)
        with Interpolation(other.state_dict(), t).at(model):
            assert same_bits(snapshot(model), expected)


@pytest.mark.parametrize("t", [-0.5, 0.25, 2.0])
def test_between_and_beyond(t, tiny_llama):
    model, other = tiny_llama(), tiny_llama(seed=1)
    expected = {name: (1 - t) * w + t * dict(Weights.of(other))[name] for name, w in Weights.of(model).items()}
    with Interpolation(other.state_dict(), t).at(model), torch.no_grad():
        for name, weight in Weights.of(model).items():
            torch.testing.assert_close(weight.detach(), expected[name].detach())


def test_a_folder_is_as_good_as_a_mapping(tiny_llama, tmp_path, snapshot, same_bits):
    model, other = tiny_llama(), tiny_llama(seed=1)
    other.save_pretrained(tmp_path)
    found = []
    for source in (tmp_path, str(tmp_path), other.state_dict()):
        with Interpolation(source, 0.5).at(model):
            found.append(snapshot(model))
    assert same_bits(found[0], found[2])
    assert same_bits(found[1], found[2])


def test_a_missing_or_odd_tensor_is_named_and_nothing_has_moved(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    there = {name: torch.zeros_like(tensor) for name, tensor in Weights.of(model).items()}
    name = "model.layers.1.mlp.down_proj.weight"
    for odd, found in ((None, "nothing of that name"), (torch.zeros(2), "shape")):
        other = {key: value for key, value in there.items() if key != name} | ({} if odd is None else {name: odd})
        with pytest.raises(InputError, match=found) as caught, Interpolation(other, 0.5).at(model):
            pass
        assert name in str(caught.value)
        assert same_bits(snapshot(model), before)
    with pytest.raises(InputError, match="model folder"), Interpolation("nowhere", 0.5).at(model):
        pass
