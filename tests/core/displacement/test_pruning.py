"""Pruning: exactly the share, the smallest first, per layer and over all layers; LoRA merged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remanent.core.displacement import Pruning, gradient_at
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError


def two_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
        model[1].weight.copy_(torch.tensor([[0.1, -0.2], [0.2, 10.0]]))
    return model


def test_by_hand_per_layer():
    model = two_layers()
    with Pruning(0.5).at(model):
        assert model[0].weight.tolist() == [[0.0, 0.0], [3.0, -4.0]]
        # Two of magnitude 0.2: the earlier goes, since the share allows one of them.
        torch.testing.assert_close(model[1].weight, torch.tensor([[0.0, 0.0], [0.2, 10.0]]))
    assert torch.equal(model[0].weight, two_layers()[0].weight)


def test_by_hand_over_all_layers():
    model = two_layers()
    with Pruning(0.5, "global").at(model):
        assert model[0].weight.tolist() == [[0.0, -2.0], [3.0, -4.0]]
        assert model[1].weight.tolist() == [[0.0, 0.0], [0.0, 10.0]]


@pytest.mark.parametrize("granularity", ["layer", "global"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_exactly_the_share_and_never_a_larger_one(tiny_llama, granularity, dtype, share):
    model = tiny_llama(dtype=dtype)
    moved = Pruning(share, granularity).moving(Weights.of(model))
    before = {name: weight.detach().clone() for name, weight in moved.items()}
    groups = [list(moved)] if granularity == "global" else [[name] for name in moved]
    with Pruning(share, granularity).at(model):
        for group in groups:
            gone = torch.cat([before[name][moved[name] == 0].float().abs() for name in group])
            left = torch.cat([before[name][moved[name] != 0].float().abs() for name in group])
            assert len(gone) == round(share * (len(gone) + len(left)))
            assert not len(gone) or gone.max() <= left.min()
    assert all(torch.equal(weight, before[name]) for name, weight in moved.items())


def test_layer_by_layer_is_the_same_and_global_is_refused(tiny_llama):
    model, ids = tiny_llama(), torch.arange(3, 11)[None]
    with torch.no_grad(), Pruning(0.3).at(model):
        whole = model(ids).logits
    with torch.no_grad(), Pruning(0.3).at(model, layer_by_layer=True):
        assert torch.equal(model(ids).logits, whole)
    with (
        pytest.raises(UnsupportedError, match="as a whole"),
        Pruning(0.3, "global").at(model, layer_by_layer=True),
    ):
        pass


def test_with_a_lora_it_is_the_sum_that_is_pruned(tiny_llama, lora):
    merged = lora(tiny_llama()).merge_and_unload()
    ids = torch.arange(3, 11)[None]
    with torch.no_grad(), Pruning(0.4).at(merged):
        expected = merged(ids).logits
    adapted = lora(tiny_llama())
    with torch.no_grad(), Pruning(0.4).at(adapted):
        torch.testing.assert_close(adapted(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_pruned_weights_take_the_gradient_of_the_pruned_point():
    model = two_layers()
    x = torch.tensor([[1.0, 1.0]])

    def closure():
        loss = model(x).sum()
        loss.backward()
        return loss

    found = gradient_at(Pruning(0.5), Weights.of(model), closure)
    # At the pruned point the first layer gives (0, -1), and the second's columns sum to 0.2 and 10.
    torch.testing.assert_close(found.gradients["1.weight"], torch.tensor([[0.0, -1.0], [0.0, -1.0]]))
    torch.testing.assert_close(found.gradients["0.weight"], torch.tensor([[0.2, 0.2], [10.0, 10.0]]))
    assert float(found.loss) == -10.0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_bad_shares_are_said(share):
    with pytest.raises(InputError, match="share"):
        Pruning(share)


def test_bad_granularity_is_said():
    with pytest.raises(InputError, match="granularity"):
        Pruning(0.5, "row")
