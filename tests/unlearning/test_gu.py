"""GU: what it wraps, what trains, and that AdamW's own steps leave the retain loss alone to first order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.core.episode import Episode
from remanent.core.optimizer_scales import step_scales
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning import gu, npo, simnpo


def begun(model, **options):
    return gu.method(**options).begin(model, Episode("one", "erase", {}))


def trained(model, method):
    return method.select.of(Weights.of(model))


@pytest.fixture
def batches(make_batch):
    return {"forget": make_batch(4, seed=1), "retain": make_batch(5, seed=2)}


def test_it_takes_losses_and_points_of_the_method_that_it_is_put_round():
    assert gu.method().objective == simnpo.method().objective
    assert gu.method(objective="npo").objective == npo.method().objective
    assert len(gu.method(objective="durable").places) == 2
    assert gu.method(objective="scrub").weights == {"forget": 0.125, "obey": 0.5, "retain": 1.0}


@pytest.mark.parametrize("name", ["gu", "salun", "alphaedit-projection", "retrain", "grad-ascent", "no-such"])
def test_methods_that_are_more_than_losses_and_those_that_keep_nothing_are_refused(name):
    with pytest.raises(InputError):
        gu.method(objective=name)


def test_the_last_layers_down_projections_train(tiny_llama):
    model = tiny_llama()
    assert set(trained(model, begun(model, layers=1))) == {"model.layers.1.mlp.down_proj.weight"}
    assert len(trained(model, begun(model))) == 2
    mine = replace(gu.method(), select=replace(gu.method().select, names=("*q_proj*",)))
    assert all("q_proj" in name for name in trained(model, mine.begin(model, Episode("one", "erase", {}))))
    with pytest.raises(InputError, match="layers"):
        gu.method(layers=0)


def test_an_episode_starts_with_no_gradient_of_another(tiny_llama, batches):
    model = tiny_llama()
    method = begun(model)
    Update(model, method, torch.optim.SGD(trained(model, method).values(), lr=0.1), steps=1)(batches)
    assert method.state_dict()["order"]
    assert not method.begin(model, Episode("two", "erase", {})).state_dict()["order"]


def test_a_step_of_adamws_scales_changes_the_retain_loss_to_second_order(tiny_llama, batches):
    """In the metric of the optimizer; in the plain one it does so to first order."""

    def change(metric, size):
        model = tiny_llama(dtype=torch.float64)
        method = begun(model, objective="grad-diff")
        method = replace(method, combine=replace(method.projection, count=1, metric=metric))
        weights = trained(model, method)
        optimizer = torch.optim.AdamW(weights.values(), lr=1e-2, betas=(0.0, 0.999), weight_decay=0.0)
        update = Update(model, method, optimizer, steps=9)
        for _ in range(3):
            update(batches)
        scales = step_scales(optimizer, weights)
        update.gradients(batches)
        recent = method.projection.recent
        before = loss(model, batches["retain"])
        with torch.no_grad():
            for name, weight in weights.items():
                forget = weight.grad - recent.slots[name][recent.order[0]].reshape(weight.shape)
                weight -= size * scales[name] * forget
        return abs(loss(model, batches["retain"]) - before)

    ours = [change(True, size) for size in (1e-3, 5e-4)]
    assert ours[0] / ours[1] == pytest.approx(4, rel=0.1)
    plain = [change(False, size) for size in (1e-3, 5e-4)]
    assert plain[0] / plain[1] == pytest.approx(2, rel=0.1)
    assert ours[0] < 0.2 * plain[0]


@torch.no_grad()
def loss(model, batch):
    """Mean NLL in float64, which the scores of a model are not."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    labels = batch.labels[:, 1:]
    asked = labels != -100
    return -float(logits[asked].log_softmax(dim=-1).gather(1, labels[asked][:, None]).mean())
