from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from remanent.core.activations import hidden_states
from remanent.core.batch import IGNORED, Batch
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.predict import Predict
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.rmu import RMU, method


@pytest.fixture
def data(make_records):
    return {"forget": make_records(6), "retain": make_records(7, seed=1)}


def fixed(states):
    return SimpleNamespace(hidden=lambda batch, layer: states)


def a_batch(labels, live=None):
    labels = torch.tensor(labels)
    ones = torch.ones_like(labels)
    return Batch(ones, ones, labels, torch.arange(len(labels)), live=live)


def test_by_hand():
    """Two records of one and two scored tokens, width 2: means over width and tokens, summed over records."""
    no = IGNORED
    states = torch.tensor([[[9.0, 9.0], [1.0, 3.0], [9.0, 9.0]], [[9.0, 9.0], [0.0, 0.0], [2.0, 2.0]]])
    objective = RMU(layer=0, steering=5.0)
    c = objective.target(2)
    batch = a_batch([[no, 5, no], [5, 5, 5]])  # the first token is never scored
    first = ((1 - c[0]) ** 2 + (3 - c[1]) ** 2) / 2
    second = ((c[0] ** 2 + c[1] ** 2) / 2 + ((2 - c[0]) ** 2 + (2 - c[1]) ** 2) / 2) / 2
    total = objective.losses({"forget": batch}, fixed(states))["forget"]
    assert total.item() == pytest.approx(float(first + second), rel=1e-5)
    live = torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 4.0]])
    kept = objective.losses({"retain": a_batch([[no, 5, no], [5, 5, 5]], live)}, fixed(states))["retain"]
    assert kept.item() == pytest.approx(2.0 + (0.0 + 2.0) / 2)


def test_the_target_is_of_the_given_length_all_positive_and_the_same_each_time():
    target = RMU(0, 6.5).target(64)
    assert float(target.norm()) == pytest.approx(6.5, rel=1e-5)
    assert bool((target >= 0).all())
    assert torch.equal(target, RMU(0, 6.5).target(64))
    assert not torch.equal(target, RMU(0, 6.5, seed=1).target(64))
    torch.testing.assert_close(RMU(0, 13.0).target(64), 2 * target)


def test_at_the_reference_the_retain_term_is_0(tiny_llama, make_batch):
    model, batch, objective = tiny_llama(), make_batch(4), RMU(1, 2.0)
    with torch.no_grad():
        live = objective.at_reference({"retain": batch}, Predict(model))["retain"]
    assert objective.losses({"retain": replace(batch, live=live)}, Predict(model))["retain"].item() == 0.0


def test_only_the_named_matrices_near_the_layer_move(tiny_llama, data, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    chosen = with_settings(method(layer=0, steering=2.0), steps=3, batch_size=3, learning_rate=1e-2, warmup=0.0)
    run_episode(model, chosen, Episode("one", "erase", data), Settings(pad_id=0))
    after = snapshot(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"model.layers.0.mlp.down_proj.weight"}


def test_three_layers_train_and_what_a_user_selects_counts(tiny_llama, data):
    names = method(layer=7).select.names
    assert names == ("*.5.mlp.down_proj.*", "*.6.mlp.down_proj.*", "*.7.mlp.down_proj.*")
    model, episode = tiny_llama(), Episode("one", "erase", data)
    begun = method(layer=-1).begin(model, episode)
    assert begun.objective.layer == 1
    assert set(begun.select.of(Weights.of(model))) == {f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)}
    assert set(method(layer=-2).begin(model, episode).select.of(Weights.of(model))) == {
        "model.layers.0.mlp.down_proj.weight"
    }
    own = with_settings(method(layer=-1), names="*.q_proj.*")
    assert own.begin(model, episode).select.names == ("*.q_proj.*",)


def test_a_layer_that_the_model_does_not_have_is_refused_before_any_work(tiny_llama, data):
    for layer in (2, 7, -3):
        with pytest.raises(InputError, match="0 to 1 of this model"):
            run_episode(tiny_llama(), method(layer=layer), Episode("one", "erase", data), Settings(pad_id=0))
    with pytest.raises(InputError, match="steering"):
        method(steering=0.0)


def test_relative_steering_is_counted_in_lengths_of_the_hidden_states(tiny_llama, make_batch, make_records):
    model = tiny_llama()
    episode = Episode("one", "erase", {"forget": make_records(20), "retain": make_records(3)})
    begun = method(layer=1, steering=3.0, relative=True).begin(model, episode)
    batch = make_batch(20)
    with torch.no_grad():
        states = hidden_states(model, batch, 1)[batch.labels != IGNORED]
    assert begun.objective.steering == pytest.approx(3.0 * float(states.norm(dim=-1).mean()), rel=1e-4)


def test_hidden_states_go_where_they_are_steered(tiny_llama, data, make_batch):
    model = tiny_llama()
    target, batches = RMU(1, 4.0).target(32), {"forget": make_batch(6), "retain": make_batch(7, seed=1)}

    def away(role, towards):
        with torch.no_grad():
            states = hidden_states(model, batches[role], 1)
        return float((states - towards)[batches[role].labels != IGNORED].square().mean())

    with torch.no_grad():
        before = hidden_states(model, batches["retain"], 1)
    start = away("forget", target)
    chosen = with_settings(method(layer=1, steering=4.0), steps=60, learning_rate=1e-2, schedule="constant")
    run_episode(model, chosen, Episode("one", "erase", data), Settings(pad_id=0))
    assert away("forget", target) < 0.8 * start
    assert away("retain", before) < away("retain", target)
