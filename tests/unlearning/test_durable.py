from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from remanent.core.displacement import Here, Rounding, gradient_at
from remanent.core.episode import Episode
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.durable import method
from remanent.unlearning.npo import NPO
from remanent.unlearning.npo import method as npo


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


def test_without_roundings_it_is_npo(tiny_llama, batches):
    found = []
    for chosen in (method(beta=0.3, roundings="", directions=0), npo(beta=0.3, retain_weight=8.0)):
        model = tiny_llama()
        Update(model, chosen, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)(batches)
        found.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
    assert all(torch.equal(found[0][name], weight) for name, weight in found[1].items())


def test_without_directions_the_gradient_is_the_sum_over_both_points(tiny_llama, batches):
    model = tiny_llama()
    assert method(directions=0).combine is None
    durable = method(
        beta=0.3, roundings="int4-row", rounded_weight=0.5, forget_weight=2.0, retain_weight=3.0, directions=0
    )
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


def test_what_is_stepped_besides_the_retain_gradient_stands_off_the_newest_retain_gradients(tiny_llama, make_batch):
    """Both terms are summed over their points; three updates of other records; some are in both sets."""
    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    ours, plain = (Update(model, method(directions=count), optimizer, steps=3) for count in (2, 0))
    retained = Update(model, method(directions=0, forget_weight=0.0), optimizer, steps=3)
    batches = [
        {
            "forget": replace(make_batch(3, seed=seed), reference=torch.full((3,), 3.0)),
            "retain": make_batch(5, seed=seed),
        }
        for seed in (1, 2, 3)
    ]

    def gradient(update, of):
        model.zero_grad()
        update.gradients(of)
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    kept = [gradient(retained, of) for of in batches]
    for number, of in enumerate(batches):
        whole, forget = gradient(ours, of), gradient(plain, of) - kept[number]
        left = whole - kept[number]
        cosines = [abs(float(torch.cosine_similarity(left, other, dim=0))) for other in kept[: number + 1]]
        assert max(cosines[-2:]) < 5e-4
        assert abs(float(torch.cosine_similarity(forget, kept[number], dim=0))) > 1e-2
    assert 0 < float(left.norm()) < float(forget.norm())


@pytest.mark.parametrize(
    ("name", "value"), [("directions", -1), ("rounded_weight", -1.0), ("rounded_weight", math.nan)]
)
def test_bad_values(name, value):
    with pytest.raises(InputError, match=f"^{name}"):
        method(**{name: value})


def test_an_episode_starts_with_no_direction_of_another(tiny_llama, make_batch):
    """Requests that come one after another are obeyed by one method."""
    model, one = tiny_llama(), method()
    first, second = (one.begin(model, Episode(name, "erase", {})) for name in ("one", "two"))
    batches = {"forget": replace(make_batch(3), reference=torch.full((3,), 3.0)), "retain": make_batch(4)}
    Update(model, first, torch.optim.SGD(model.parameters(), lr=0.0), steps=1)(batches)
    assert first.state_dict()["order"] == [0]
    assert second.state_dict()["order"] == one.state_dict()["order"] == []
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["order"] == [0]
    assert method(directions=0).begin(model, Episode("one", "erase", {})).state_dict() == {}


def test_under_loss_scaling_the_gradient_is_the_same(tiny_llama, make_batch):
    """As fp16 has it: the combination sees gradients as they are, and writes into none that are still scaled."""

    class Scaler:
        def get_scale(self):
            return 1024.0

    class Scaling:
        scaler, num_processes, gradient_accumulation_steps = Scaler(), 1, 1

        def backward(self, loss):
            (1024 * loss).backward()

        def unscale_gradients(self, optimizer):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad /= 1024

    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plain, scaled = (
        Update(model, method(directions=2), optimizer, steps=4, accelerator=accelerator)
        for accelerator in (None, Scaling())
    )
    for seed in range(4):
        batches = {"forget": replace(make_batch(3, seed=seed), reference=torch.full((3,), 3.0))}
        batches["retain"] = make_batch(5, seed=seed)
        found = []
        for update in (plain, scaled):
            update.gradients(batches)
            found.append([parameter.grad.clone() for parameter in model.parameters()])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
