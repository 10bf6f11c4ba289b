from __future__ import annotations

import pytest
import torch
from torch import nn

from remanent.core.displacement import Dampening, gradient_at
from remanent.core.weights import Weights
from remanent.errors import InputError


@pytest.fixture
def model():
    made = nn.Linear(2, 1)
    made.weight.data, made.bias.data = torch.tensor([[2.0, -3.0]]), torch.tensor([1.0])
    return made


def test_look_and_stay(model):
    point = Dampening({"weight": torch.tensor([[0.5, 0.0]])})
    with point.at(model):
        assert (model.weight.tolist(), model.bias.tolist()) == ([[1.0, 0.0]], [1.0])
    assert model.weight.tolist() == [[2.0, -3.0]]
    undo = point.apply(model)
    assert model.weight.tolist() == [[1.0, 0.0]]
    undo.undo()
    assert model.weight.tolist() == [[2.0, -3.0]]


def test_a_gradient_there_is_scaled_as_the_weight_is(model):
    def closure():
        loss = model(torch.tensor([[1.0, 10.0]])).sum()
        loss.backward()
        return loss

    found = gradient_at(Dampening({"weight": torch.tensor([[0.5, 0.0]])}), Weights.of(model), closure)
    assert float(found.loss) == 2.0
    assert found.gradients["weight"].tolist() == [[0.5, 0.0]]
    assert found.gradients["bias"].tolist() == [1.0]


def test_a_16_bit_weight_is_rounded_once():
    model = nn.Linear(3, 1, bias=False).bfloat16()
    factor = torch.tensor([[0.3, 0.7, 0.1]])
    expected = (model.weight.detach().float() * factor).bfloat16()
    Dampening({"weight": factor}).apply(model)
    assert torch.equal(model.weight, expected)


@pytest.mark.parametrize("factors", [{"wieght": torch.ones(1, 2)}, {"weight": torch.ones(2, 1)}])
def test_factors_of_another_model_are_refused(model, factors):
    with pytest.raises(InputError, match="factors"):
        Dampening(factors).apply(model)
