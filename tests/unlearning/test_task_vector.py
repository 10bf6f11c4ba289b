from __future__ import annotations

import pytest
import torch

from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.reference import reference_nll
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.task_vector import Fit, method


@pytest.fixture
def episode(make_records):
    return Episode("one", "erase", {"forget": make_records(6)})


def run(model, chosen, episode):
    chosen = with_settings(chosen, steps=4, learning_rate=1e-3, batch_size=6, warmup=0.0)
    run_episode(model, chosen, episode, Settings(pad_id=0))


def overfitted(chosen):
    """The same training, whose change is not negated."""
    return Method(Fit(), select=chosen.select, recipe=chosen.recipe)


def test_by_hand(answers, taken):
    batch = answers([1.0, 2.0], [6.0])
    assert taken(Fit(), forget=batch)["forget"].item() == pytest.approx(3.0)
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[2.0, -1.0]])
    begun = method(scale=0.5).begin(model, Episode("one", "erase", {}))
    model.weight.data = torch.tensor([[3.0, -5.0]])
    begun.end(model, Episode("one", "erase", {}))
    assert model.weight.tolist() == [[1.5, 1.0]]  # 2 - (3 - 2) / 2, -1 - (-5 + 1) / 2


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_it_ends_on_the_other_side_of_where_training_would_have_ended(scale, tiny_llama, episode):
    start, trained, model = tiny_llama(), tiny_llama(), tiny_llama()
    run(trained, overfitted(method()), episode)
    run(model, method(scale), episode)
    for name, weight in Weights.of(model).items():
        here, there = Weights.of(start)[name].detach(), Weights.of(trained)[name].detach()
        torch.testing.assert_close(weight.detach(), here - scale * (there - here))
    before, learnt, after = (
        float(reference_nll(m, episode.data["forget"], pad_id=0).sum()) for m in (start, trained, model)
    )
    assert learnt < before < after


@pytest.mark.parametrize("fresh", [True, False])
def test_a_loras_change_is_negated_as_a_change_of_the_weights(fresh, tiny_llama, lora, episode):
    """Exactly, of a fresh adapter and of one that was trained before: its product, not its two factors."""
    start, trained, model = (lora(tiny_llama(), fresh=fresh) for _ in range(3))
    run(trained, overfitted(method()), episode)
    run(model, method(2.0), episode)
    first, there, found = (Weights.of(m.merge_and_unload()) for m in (start, trained, model))
    moved = 0.0
    for name, weight in found.items():
        here, learnt = first[name].detach(), there[name].detach()
        torch.testing.assert_close(weight.detach(), here - 2 * (learnt - here), rtol=1e-4, atol=1e-6)
        moved += float((weight.detach() - here).norm())
    assert moved > 1e-3


def test_no_stopping_rule_may_look_at_it():
    assert not method().judged_by_rule


def test_what_is_wrong_is_named():
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="scale"):
            method(scale)
