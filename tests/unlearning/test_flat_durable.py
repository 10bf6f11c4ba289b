"""Flat and durable unlearning: its gradient, put together of its parts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.core.displacement import Here, Restored, Rounding, gradient_at
from remanent.core.divergence import kl_divergence
from remanent.core.scores import answer_scores
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.flat_durable import method
from remanent.unlearning.flat_npo import method as flat_npo
from remanent.unlearning.npo import method as npo


@pytest.fixture
def before(tiny_llama):
    """The model before the run, other than now."""
    return {name: parameter.detach().clone() for name, parameter in tiny_llama(seed=1).named_parameters()}


def gradients_of(model, made, batches, before):
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    Update(model, made, optimizer, steps=1, reference=Restored(before)).gradients(batches)
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_forget_is_taken_at_the_worst_point_and_the_divergence_here_and_at_the_rounding(tiny_llama, batches, before):
    model = tiny_llama()
    given = {"beta": 0.3, "rho": 0.5, "forget_weight": 2.0}
    made = method(**given, retain_weight=3.0, roundings="int4-row", rounded_weight=0.5)
    found = gradients_of(model, made, batches, before)
    forget = gradients_of(model, flat_npo(**given, retain_weight=0.0), batches, before)
    retain = batches["retain"]
    with torch.no_grad(), Restored(before).at(model):
        said = answer_scores(model, retain).distribution

    def closure():
        divergence = kl_divergence(said, answer_scores(model, retain).distribution).sum() / retain.units("token")
        divergence.backward()
        return divergence

    here, there = (gradient_at(at, Weights.of(model), closure).gradients for at in (Here(), Rounding("int4-row")))
    for name, gradient in found.items():
        expected = forget[name] + 3.0 * (here[name] + 0.5 * there[name])
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_at_no_radius_and_without_roundings_it_is_npo_with_the_divergence(tiny_llama, batches, before):
    plain, ours = (
        gradients_of(tiny_llama(), made, batches, before)
        for made in (npo(retain_loss="kl", retain_weight=8.0), method(rho=0.0, roundings=""))
    )
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6)


def test_the_model_as_it_was_is_held_without_a_gradient(tiny_llama, batches):
    model = tiny_llama()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = gradients_of(model, method(forget_weight=0.0, roundings=""), batches, before)
    assert all(float(gradient.abs().max()) < 1e-5 for gradient in found.values())
    moved = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in before.items()}
    pulled = gradients_of(model, method(forget_weight=0.0, roundings=""), batches, moved)
    assert max(float(gradient.abs().max()) for gradient in pulled.values()) > 1e-3


def test_every_rounding_has_its_turn(tiny_llama, batches, before):
    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    update = Update(model, method(), optimizer, steps=6, reference=Restored(before))
    seen = [{name.split("@")[1] for name in update(batches) if "@" in name} for _ in range(6)]
    rounded = [name for points in seen for name in points if name in ("int4-row", "int4-g32", "nf4")]
    assert sorted(rounded) == ["int4-g32"] * 2 + ["int4-row"] * 2 + ["nf4"] * 2


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rho": -1.0}, "rho"),
        ({"rho": float("inf")}, "rho"),
        ({"rounded_weight": float("nan")}, "rounded_weight"),
        ({"beta": 0.0}, "beta"),
        ({"roundings": "int5"}, "int5"),
    ],
)
def test_bad_settings(given, field):
    with pytest.raises(InputError, match=field):
        method(**given)


def test_the_forget_loss_asks_for_the_reference(batches):
    with pytest.raises(InputError, match="reference"):
        method().objective.losses({"forget": replace(batches["forget"], reference=None)}, lambda batch: None)
