"""NPO near the weights: each of its points by its formula, and what is left of it at a radius of nothing."""

from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import Here, Noise, Rounding, gradient_at
from remanent.core.scores import answer_scores
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning import npo
from remanent.unlearning.flat_npo import method
from remanent.unlearning.npo import NPO


def update_of(model, made):
    return Update(model, made, torch.optim.SGD(model.parameters(), lr=0.0), steps=6)


def gradients_of(model, made, batches):
    model.zero_grad()
    update_of(model, made).gradients(batches)
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def term_gradients(model, batches, term, point):
    """Of one term alone, at one point, without the update's code."""

    def closure():
        losses = NPO(0.3).losses(batches, lambda batch: answer_scores(model, batch))
        loss = losses[term] / (3 if term == "forget" else batches["retain"].units("token"))
        model.zero_grad()
        loss.backward()
        return loss

    return gradient_at(point, Weights.of(model), closure).gradients


def same(found, expected):
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "given", [{"around": "ascent", "rho": 0.0}, {"around": "noise", "sigma": 0.0}], ids=["ascent", "noise"]
)
def test_at_no_distance_it_is_npo(given, tiny_llama, batches):
    model = tiny_llama()
    plain = gradients_of(model, npo.method(beta=0.3, retain_weight=2.0), batches)
    same(gradients_of(model, method(beta=0.3, retain_weight=2.0, **given), batches), plain)


def test_the_worst_point_climbs_the_forget_loss_alone_and_retain_is_taken_at_the_weights(tiny_llama, batches):
    model = tiny_llama()
    found = gradients_of(
        model, method(around="ascent", rho=0.5, beta=0.3, forget_weight=2.0, retain_weight=3.0), batches
    )
    here = term_gradients(model, batches, "forget", Here())
    length = torch.sqrt(sum(gradient.square().sum() for gradient in here.values()))
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(here[name] * 0.5 / length)
    there = term_gradients(model, batches, "forget", Here())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name])
    retained = term_gradients(model, batches, "retain", Here())
    same(found, {name: 2.0 * there[name] + 3.0 * retained[name] for name in found})


def test_with_directions_the_forget_gradient_of_the_worst_point_is_off_the_retain_gradient(tiny_llama, batches):
    model = tiny_llama()
    chosen = {"around": "ascent", "rho": 0.5, "beta": 0.3, "retain_weight": 3.0}
    summed, off = (gradients_of(model, method(**chosen, directions=count), batches) for count in (0, 1))
    retained = term_gradients(model, batches, "retain", Here())
    left, forget, kept = (
        torch.cat([part[name].flatten() for name in off])
        for part in (
            {name: off[name] - 3.0 * retained[name] for name in off},
            {name: summed[name] - 3.0 * retained[name] for name in off},
            retained,
        )
    )
    assert abs(float(torch.cosine_similarity(left, kept, dim=0))) < 1e-3
    assert abs(float(torch.cosine_similarity(forget, kept, dim=0))) > 1e-2
    expected = forget - (forget @ kept) / (kept @ kept) * kept
    assert float((left - expected).norm() / expected.norm()) < 1e-2  # the direction is held in bfloat16


def test_roundings_average_the_forget_loss_here_and_there(tiny_llama, batches):
    model = tiny_llama()
    found = gradients_of(model, method(around="roundings", roundings="int4-row", beta=0.3), batches)
    here, there = (term_gradients(model, batches, "forget", point) for point in (Here(), Rounding("int4-row")))
    retained = term_gradients(model, batches, "retain", Here())
    same(found, {name: (here[name] + there[name]) / 2 + retained[name] for name in found})


def test_noise_is_other_noise_at_each_update_and_in_a_resumed_run_the_same(tiny_llama, batches):
    model = tiny_llama()
    made = method(around="noise", sigma=0.05, scale="tensor", draws=2)
    update = update_of(model, made)
    losses = [{name: value for name, value in update(batches).items() if "@" in name} for _ in range(3)]
    assert {len(each) for each in losses} == {3}  # retain here, forget at two draws
    assert all(set(each) == set(losses[0]) for each in losses)  # one curve each, whatever the update
    forget = [float(value) for each in losses for name, value in each.items() if name.startswith("forget")]
    assert len(set(forget)) == 6
    again = update_of(model, made)
    again.step = 1
    found = again(batches)
    assert all(float(found[name]) == float(value) for name, value in losses[1].items())


def test_noise_leaves_frozen_weights_where_they_are(tiny_llama, snapshot):
    model = tiny_llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    here = snapshot(model)
    with Noise(0.1, trained=True).at(model):
        there = snapshot(model)
    moved = {name for name, _ in model.named_parameters() if not torch.equal(here[name], there[name])}
    assert "model.embed_tokens.weight" not in moved
    assert "model.layers.0.mlp.up_proj.weight" in moved


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"around": "ascend"}, "around"),
        ({"draws": 0}, "draws"),
        ({"rho": -1.0}, "rho"),
        ({"directions": -1}, "directions"),
    ],
)
def test_bad_settings(given, field):
    with pytest.raises(InputError, match=field):
        method(**given)
