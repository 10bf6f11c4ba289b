from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from remanent.core.weight_average import WeightAverage
from remanent.errors import InputError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_it_is_torchs_own_average():
    """AveragedModel copies at its first update, where this averages with the weights at the start."""
    model = net().train()
    ours = WeightAverage(model, 0.9)
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    torchs.n_averaged.fill_(1)
    for step in range(4):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * (step + 1))
        model(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))
        ours.update()
        torchs.update_parameters(model)
    for (name, mine), its in zip(ours.model.state_dict().items(), torchs.module.state_dict().values(), strict=True):
        if mine.is_floating_point():
            torch.testing.assert_close(mine, its, msg=name)
    assert int(ours.model[1].num_batches_tracked) == 4


def test_it_answers_in_eval_mode_and_takes_no_gradient():
    model = net().train()
    average = WeightAverage(model, 0.9)
    inputs = torch.randn(6, 3)
    found = average.logits(inputs)
    assert torch.equal(found, average.logits(inputs)), "no dropout"
    assert not found.requires_grad
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


def test_what_does_not_train_is_shared():
    model = net()
    model[0].requires_grad_(False)
    average = WeightAverage(model, 0.5)
    assert average.model[0].weight is model[0].weight
    assert average.model[3].weight is not model[3].weight
    assert set(average.state_dict()) == {
        "1.weight", "1.bias", "3.weight", "3.bias", "1.running_mean", "1.running_var"
    }  # fmt: skip
    with torch.no_grad():
        model[3].bias.add_(1.0)
    before = average.model[3].bias.clone()
    average.update()
    torch.testing.assert_close(average.model[3].bias, before + 0.5)


def test_it_follows_the_model_whose_first_weight_is_shared():
    """The meta device stands for an accelerator: what is shared lies there already, what is averaged does not."""
    model = net()
    model[0].requires_grad_(False)
    average = WeightAverage(model, 0.5)
    model[1].to("meta")
    model[3].to("meta")
    average.update()
    assert average.model[0].weight is model[0].weight
    assert model[0].weight.device.type == "cpu"
    assert {tensor.device.type for tensor in average.state_dict().values()} == {"meta"}
    assert average.model[1].num_batches_tracked.device.type == "meta"


def test_state_goes_over():
    model = net()
    one, other = WeightAverage(model, 0.5), WeightAverage(net(), 0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    one.update()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.model[0].weight, other.model[0].weight)
    with pytest.raises(InputError, match="state"):
        WeightAverage(nn.Linear(2, 2), 0.5).load_state_dict(one.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_out_of_range(decay):
    with pytest.raises(InputError, match="decay"):
        WeightAverage(net(), decay)


def test_a_model_of_which_nothing_trains():
    with pytest.raises(InputError, match="trains"):
        WeightAverage(net().requires_grad_(False), 0.9)
