from __future__ import annotations

import pytest
import torch
from torch import nn

from remanent.core.optimizer_scales import step_scales
from remanent.core.weights import Weights
from remanent.errors import UnsupportedError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def stepped(model, optimizer, times=3):
    for number in range(times):
        optimizer.zero_grad()
        (model(torch.full((1, 3), 1.0 + number)).square().sum()).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"betas": (0.0, 0.9), "eps": 1e-3}])
def test_they_are_what_the_step_before_divided_by(kind, options, model):
    """Without momentum a step moves by the learning rate, times the scale, times the gradient."""
    options = {"betas": (0.0, 0.99), **options}
    optimizer = stepped(model, kind(model.parameters(), lr=1e-2, weight_decay=0.0, **options), 2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    stepped(model, optimizer, 1)
    scales = step_scales(optimizer, Weights.of(model))
    for name, weight in model.named_parameters():
        torch.testing.assert_close(before[name] - weight.detach(), 1e-2 * scales[name] * weight.grad)


def test_there_are_none_before_the_first_step_and_without_second_moments(model):
    assert step_scales(torch.optim.AdamW(model.parameters()), Weights.of(model)) == {}
    assert (
        step_scales(stepped(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)), Weights.of(model)) == {}
    )


def test_weights_that_the_optimizer_does_not_move_have_none(model):
    optimizer = stepped(model, torch.optim.AdamW([model.bias]))
    assert set(step_scales(optimizer, Weights.of(model))) == {"bias"}


def test_an_optimizer_that_wraps_it_is_looked_into(model):
    from accelerate import Accelerator

    optimizer = stepped(model, torch.optim.AdamW(model.parameters()))
    wrapped = step_scales(Accelerator(cpu=True).prepare(optimizer), Weights.of(model))
    for name, scale in step_scales(optimizer, Weights.of(model)).items():
        assert torch.equal(wrapped[name], scale)


def test_moments_that_are_not_entry_by_entry_are_refused(model):
    optimizer = stepped(model, torch.optim.AdamW(model.parameters()))
    optimizer.state[model.weight]["exp_avg_sq"] = torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(UnsupportedError, match="second moment of weight"):
        step_scales(optimizer, Weights.of(model))
