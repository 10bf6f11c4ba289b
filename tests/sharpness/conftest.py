"""Small surfaces whose figures are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remanent.sharpness import LossSurface
from remanent.sharpness.surface import class_wrong


class Quadratic(nn.Module):
    """L = (4 (a - p)^2 + (b - q)^2) / 2, whatever the data."""

    def __init__(self, at, centre):
        super().__init__()
        self.p, self.q = centre
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in at)

    def forward(self, inputs):
        return (4 * (self.a - self.p) ** 2 + (self.b - self.q) ** 2) / 2 * torch.ones(len(inputs), dtype=torch.float64)


def value(model, batch):
    return model(batch)


@pytest.fixture
def quadratic():
    def make(at=(1.0, 2.0), centre=(0.0, 0.0)):
        return LossSurface(Quadratic(at, centre), [torch.zeros(3)], value)

    return make


@pytest.fixture
def classifier():
    """A perceptron in float64 with three batches of unlike sizes."""

    def make(*, norm=False, frozen=False):
        torch.manual_seed(0)
        middle = [nn.BatchNorm1d(6)] if norm else []
        model = nn.Sequential(nn.Linear(4, 6), *middle, nn.ReLU(), nn.Linear(6, 3)).double()
        inputs, labels = torch.randn(30, 4).double(), torch.randint(0, 3, (30,))
        batches = list(zip(inputs.split([8, 10, 12]), labels.split([8, 10, 12]), strict=True))
        model.requires_grad_(not frozen)
        return LossSurface(model.train(), batches, wrong=class_wrong)

    return make


def dense_hessian(surface):
    """Of the mean loss over all samples, by differentiating twice, entry by entry."""
    from torch.func import functional_call

    weights = dict(surface.model.named_parameters())
    sizes = [weight.numel() for weight in weights.values()]
    inputs = torch.cat([batch[0] for batch in surface.batches])
    labels = torch.cat([batch[1] for batch in surface.batches])

    def loss(flat):
        moved = {name: part.view_as(weights[name]) for name, part in zip(weights, flat.split(sizes), strict=True)}
        return nn.functional.cross_entropy(functional_call(surface.model, moved, (inputs,)), labels)

    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    return torch.autograd.functional.hessian(loss, flat)
