from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import Noise
from remanent.errors import InputError


def point(model, noise, snapshot):
    with noise.at(model):
        return snapshot(model)


def test_one_point_at_each_call_another_for_another_seed(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    first = point(model, Noise(0.1), snapshot)
    torch.manual_seed(99)
    assert same_bits(point(model, Noise(0.1), snapshot), first)
    other = point(model, Noise(0.1, seed=1), snapshot)
    assert all(not torch.equal(first[name], other[name]) for name, _ in model.named_parameters())


def test_sigma_zero_moves_nothing_bit_for_bit(tiny_llama, snapshot, same_bits):
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_llama(dtype=dtype)
        assert same_bits(point(model, Noise(0.0), snapshot), snapshot(model))


def test_relative_noise_is_in_units_of_each_tensors_size(tiny_llama, snapshot):
    model = tiny_llama()
    here = snapshot(model)
    for scale in ("tensor", "none"):
        there = point(model, Noise(0.5, scale=scale), snapshot)
        for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"):
            size = here[name].square().mean().sqrt() if scale == "tensor" else 1.0
            assert float((there[name] - here[name]).std() / size) == pytest.approx(0.5, rel=0.1)


def test_a_row_is_a_neuron_where_a_layer_keeps_its_inputs_first(tiny_gpt2):
    model = tiny_gpt2()
    layer = model.transformer.h[0].mlp.c_fc
    with torch.no_grad():
        layer.weight[:, 0] *= 100
        here = layer.weight.clone()
    with Noise(0.1, scale="row").at(model):
        moved = (layer.weight - here).detach()
    sizes = moved.square().mean(dim=0).sqrt() / here.square().mean(dim=0).sqrt()
    assert sizes.tolist() == pytest.approx([0.1] * len(sizes), rel=0.6)
    assert sizes[0] == pytest.approx(0.1, rel=0.6)


def test_tensors_of_one_shape_get_noise_of_their_own(tiny_llama, snapshot):
    model = tiny_llama()
    here, there = snapshot(model), point(model, Noise(1.0, scale="none"), snapshot)
    first, second = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1))
    assert not torch.allclose(there[first] - here[first], there[second] - here[second], atol=0.1)


def test_negative_sigma():
    with pytest.raises(InputError, match="sigma"):
        Noise(-0.1)
