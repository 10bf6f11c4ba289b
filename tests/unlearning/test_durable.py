from __future__ import annotations

import torch

from remanent.core.displacement import Here, Rounding, gradient_at
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.unlearning.durable import method
from remanent.unlearning.npo import NPO


def rounded_losses(found):
    return {name for name in found if "@" in name and not name.endswith("@full")}


def test_forget_and_retain_are_taken_at_every_rounding_in_turn(tiny_llama, batches):
    model = tiny_llama()
    update = Update(
        model,
        method(roundings="int4-row, int4-g32,nf4"),
        torch.optim.SGD(model.parameters(), lr=0.0),
        steps=12,
    )
    seen = [rounded_losses(update(batches)) for _ in range(12)]
    points = [next(iter(names)).split("@")[1] for names in seen if names]
    assert set(points) == {"int4-row", "int4-g32", "nf4"}
    assert all({name.split("@")[0] for name in names} == {"forget", "retain"} for names in seen if names)
    assert all(points.count(point) == len(points) // 3 for point in set(points))


def test_the_gradient_is_the_sum_over_both_points(tiny_llama, batches):
    model = tiny_llama()
    durable = method(beta=0.3, roundings="int4-row", rounded_weight=0.5, forget_weight=2.0, retain_weight=3.0)
    update = Update(model, durable, torch.optim.SGD(model.parameters(), lr=0.0), steps=3)
    losses = {}
    while not rounded_losses(losses):
        model.zero_grad()
        losses = update.gradients(batches)
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    def closure():
        from remanent.core.scores import answer_scores

        terms = NPO(0.3).losses(batches, lambda batch: answer_scores(model, batch))
        loss = 2.0 * terms["forget"] / 3 + 3.0 * terms["retain"] / batches["retain"].units("token")
        loss.backward()
        return loss

    here = gradient_at(Here(), Weights.of(model), closure).gradients
    there = gradient_at(Rounding("int4-row"), Weights.of(model), closure).gradients
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, here[name] + 0.5 * there[name], rtol=1e-4, atol=1e-5)
