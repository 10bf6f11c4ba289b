"""Noise on the input of a model that torch.compile has compiled already: as much as without compiling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remanent.optim import R3F, SMART, TRAM, InitialWeights, NoisedInputs, PreviousWeights, TRAMFisher


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(11, 8), nn.Linear(8, 3)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, ids):
        return self.out(torch.tanh(self.embedding(ids)).mean(1))


LABELS = torch.arange(6) % 3
INPUTS = {"words": torch.arange(30).reshape(6, 5) % 11, "numbers": torch.arange(30.0).reshape(6, 5) / 30}


def made(kind):
    torch.manual_seed(0)
    return Words() if kind == "words" else nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))


def stepped(optimizer, asked, inputs):
    def closure():
        loss = nn.functional.cross_entropy(asked(inputs), LABELS)
        loss.backward()
        return loss

    torch.manual_seed(3)
    for _ in range(3):
        optimizer.step(closure)
    weights = torch.cat([weight.detach().flatten() for group in optimizer.param_groups for weight in group["params"]])
    return torch.cat([weights, torch.tensor([getattr(optimizer, "radius", 0.0)])])


def term(make):
    def measure(given, asked, inputs):
        torch.manual_seed(3)
        logits = asked(inputs)
        return make(given)(logits, inputs).detach()

    return measure


def trusting(distance, **settings):
    def measure(given, asked, inputs):
        there = distance(given, **settings)
        return stepped(TRAM(given.parameters(), torch.optim.SGD, lr=0.5, distance=there, scale=30.0), asked, inputs)

    return measure


def fisher(given, asked, inputs):
    options = {"sigma": 0.5, "eta": 50.0, "rho": 1.0, "lr": 0.1}
    return stepped(TRAMFisher(given.parameters(), torch.optim.SGD, model=given, **options), asked, inputs)


WAYS = {
    "r3f": term(lambda model: R3F(model, noise="normal", scale=0.5)),
    "smart": term(lambda model: SMART(model, step_size=0.5, noise=0.1)),
    "tram-noised": trusting(NoisedInputs, sigma=0.5),
    "tram-previous": trusting(PreviousWeights),
    "tram-initial": trusting(InitialWeights),
    "tram-fisher": fisher,
}


@pytest.mark.parametrize("kind", ["words", "numbers"])
@pytest.mark.parametrize("how", ["wrapped", "wrapped, inner given", "in place"])
@pytest.mark.parametrize("name", WAYS)
def test_as_without_compiling(name, how, kind):
    torch._dynamo.reset()
    inputs, model = INPUTS[kind], made(kind)
    expected = WAYS[name](model, model, inputs)
    assert name == "tram-fisher" or expected.flatten()[-1] > 1e-6

    model = made(kind)
    if how == "in place":
        model.compile(backend="eager")
    asked = model if how == "in place" else torch.compile(model, backend="eager")
    asked(inputs)
    with torch.no_grad():
        asked(inputs)
    found = WAYS[name](model if how == "wrapped, inner given" else asked, asked, inputs)
    assert torch.equal(found, expected)
