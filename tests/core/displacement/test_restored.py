from __future__ import annotations

import pytest
import torch
from torch import nn

from remanent.core.displacement import Restored, gradient_at
from remanent.core.weights import Weights
from remanent.errors import InputError


@pytest.fixture
def model():
    made = nn.Linear(2, 1)
    made.weight.data, made.bias.data = torch.tensor([[2.0, -3.0]]), torch.tensor([1.0])
    return made


def test_what_was_kept_is_back_and_the_rest_stays(model):
    with Restored({"weight": torch.tensor([[7.0, 8.0]])}).at(model):
        assert (model.weight.tolist(), model.bias.tolist()) == ([[7.0, 8.0]], [1.0])
    assert model.weight.tolist() == [[2.0, -3.0]]


def test_it_may_grow(model):
    kept = {}
    point = Restored(kept)
    with point.at(model):
        assert model.weight.tolist() == [[2.0, -3.0]]
    kept["bias"] = torch.tensor([0.0])
    with point.at(model):
        assert (model.weight.tolist(), model.bias.tolist()) == ([[2.0, -3.0]], [0.0])


def test_no_gradient_comes_back_from_what_does_not_depend_on_here(model):
    def closure():
        loss = model(torch.tensor([[1.0, 10.0]])).sum()
        loss.backward()
        return loss

    found = gradient_at(Restored({"weight": torch.tensor([[1.0, 1.0]])}), Weights.of(model), closure)
    assert float(found.loss) == 12.0
    assert found.gradients["weight"].tolist() == [[0.0, 0.0]]
    assert found.gradients["bias"].tolist() == [1.0]


@pytest.mark.parametrize("kept", [{"other": torch.zeros(1)}, {"weight": torch.zeros(3)}])
def test_what_is_not_the_models_is_refused(kept, model):
    with pytest.raises(InputError, match="kept"), Restored(kept).at(model):
        pass
