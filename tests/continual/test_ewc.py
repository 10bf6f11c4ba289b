from __future__ import annotations

import pytest
import torch
from torch import nn

from remanent.continual.ewc import EWC, Consolidation, method
from remanent.core.batch import collate
from remanent.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from remanent.core.episode import Episode
from remanent.core.importance import answer_nll, fisher
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.scores import score_records
from remanent.core.weights import Weights
from remanent.errors import InputError


@pytest.fixture
def weight():
    """One weight at 1.5, as Weights."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = torch.tensor([[1.5]])
    return Weights.of(model)


def past(count, size=50, dtype=torch.float64):
    """(importance, weights) of some tasks; some weights mattered for none of them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        importance = torch.rand(size, generator=generator, dtype=dtype) ** 4
        importance[:5] = 0
        found.append(({"weight": importance[None]}, {"weight": torch.randn(1, size, generator=generator, dtype=dtype)}))
    return found


def by_hand(strength, tasks, here):
    """Loss and gradient of the separate sum: one quadratic per task."""
    here = here.detach().clone().requires_grad_()
    loss = sum(strength / 2 * (f["weight"] * (here - w["weight"]) ** 2).sum() for f, w in tasks)
    loss.backward()
    return loss.detach(), here.grad


def test_the_cards_golden_check(weight):
    """F 2, d .5, lambda 4 -> 1.0, with the half; the gradient is lambda F d = 4."""
    pull = Consolidation(4.0)
    pull.fold({"weight": torch.tensor([[2.0]])}, {"weight": torch.tensor([[1.0]])})
    assert float(pull.add_gradient(weight)) == 1.0
    assert weight["weight"].grad.tolist() == [[4.0]]
    pull.add_gradient(weight)
    assert weight["weight"].grad.tolist() == [[8.0]]


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_folding_is_the_separate_sum(dtype, relative):
    tasks, pull = past(10, dtype=dtype), Consolidation(3.0)
    model = nn.Linear(50, 1, bias=False).to(dtype)
    for number, (importance, weights) in enumerate(tasks, start=1):
        pull.fold({name: value.clone() for name, value in importance.items()}, weights)
        model.weight.grad = None
        loss = pull.add_gradient(Weights.of(model))
        expected, gradient = by_hand(3.0, tasks[:number], model.weight)
        torch.testing.assert_close(loss, expected, rtol=relative, atol=0)
        torch.testing.assert_close(
            model.weight.grad, gradient, rtol=relative, atol=relative * float(gradient.abs().max())
        )
    assert pull.tasks == 10
    held = [*pull.curvature.values(), *pull.anchor.values()]
    assert sum(tensor.numel() for tensor in held) == 2 * model.weight.numel(), "memory does not grow with the tasks"


def test_what_stands_exactly_there_still_costs_the_distance_between_the_tasks(weight):
    """Two tasks of F 1 at 1 and 2: the anchor is 1.5, where each costs .5 * .25."""
    pull = Consolidation(1.0)
    for place in (1.0, 2.0):
        pull.fold({"weight": torch.ones(1, 1)}, {"weight": torch.tensor([[place]])})
    assert float(pull.add_gradient(weight)) == pytest.approx(0.25)
    assert weight["weight"].grad.tolist() == [[0.0]]


def test_online_forgets_by_gamma_and_anchors_at_the_newest(weight):
    """F* = .5 * 2 + 3 = 4 at 1; penalty with gamma: lambda / 2 * .5 * 4 * .25 = .5."""
    pull = Consolidation(2.0, decay=0.5)
    pull.fold({"weight": torch.tensor([[2.0]])}, {"weight": torch.tensor([[7.0]])})
    pull.fold({"weight": torch.tensor([[3.0]])}, {"weight": torch.tensor([[1.0]])})
    assert float(pull.add_gradient(weight)) == pytest.approx(0.5)
    assert weight["weight"].grad.tolist() == [[pytest.approx(2.0)]]


def test_nothing_is_pulled_before_a_task_and_what_is_frozen_gets_no_gradient(weight):
    pull = Consolidation(2.0)
    assert float(pull.add_gradient(weight)) == 0
    assert weight["weight"].grad is None
    pull.fold({"weight": torch.ones(1, 1)}, {"weight": torch.zeros(1, 1)})
    weight["weight"].requires_grad_(False)
    assert float(pull.add_gradient(weight)) == 0
    assert weight["weight"].grad is None


@pytest.fixture
def sets(make_records):
    return {name: make_records(6, seed=number) for number, name in enumerate(("first", "second"), start=1)}


def run(model, chosen, name, records, **options):
    settings = Settings(pad_id=0, dropout=False, checkpoint_every=2)
    return run_episode(model, chosen, Episode(name, "teach", {"task": records}), settings, **options)


def nll(model, records):
    return float(score_records(model, records, pad_id=0).mean_nll.mean())


def fast(strength, **options):
    return with_settings(method(strength, **options), learning_rate=1e-2, steps=40, batch_size=6, schedule="constant")


def test_the_end_of_an_episode_takes_the_importances(tiny_llama, sets):
    model, chosen = tiny_llama(), fast(1.0, labels="given")
    run(model, chosen, "first", sets["first"])
    expected = fisher(model, [collate(sets["first"], range(6), 0)], answer_nll)
    held = chosen.consolidation
    assert held.tasks == 1
    for name, weight in Weights.of(model).items():
        torch.testing.assert_close(held.curvature[name], expected[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(held.anchor[name], weight)


def test_what_was_learned_first_is_kept(tiny_llama, sets):
    found = {}
    for strength in (0.0, 1e5):
        model, chosen = tiny_llama(), with_settings(fast(strength), steps=15)
        run(model, chosen, "first", sets["first"])
        taught = nll(model, sets["first"])
        run(model, chosen, "second", sets["second"])
        found[strength] = nll(model, sets["first"]) - taught, nll(model, sets["second"])
    (lost, learned), (held, second) = found[0.0], found[1e5]
    assert lost > 2
    assert held < 0.1 * lost
    assert max(learned, second) < 0.5, "the second is learned either way"


def test_a_strength_of_0_is_plain_teaching(tiny_llama, sets, snapshot, same_bits):
    first, second = tiny_llama(), tiny_llama()
    chosen = fast(0.0)
    chosen.remember(first, "past", sets["second"])
    run(first, chosen, "first", sets["first"])
    run(second, fast(0.0), "first", sets["first"])
    assert same_bits(snapshot(first), snapshot(second))


def test_only_selected_weights_are_held(tiny_llama, sets):
    chosen = with_settings(method(), names="*.mlp.*")
    chosen.remember(tiny_llama(), "past", sets["first"])
    assert chosen.consolidation.curvature
    assert all(".mlp." in name for name in chosen.consolidation.curvature)


def test_state_survives_the_disk_bit_for_bit(tiny_llama, sets, tmp_path, same_bits):
    model, chosen = tiny_llama(), method()
    for name, records in sets.items():
        chosen.remember(model, name, records)
        with torch.no_grad():
            model.lm_head.weight.add_(0.01)
    save_checkpoint(tmp_path / "state", Checkpoint(1, {}, chosen.state_dict()))
    other = method()
    other.load_state_dict(load_checkpoint(tmp_path / "state").state)
    first, second = chosen.state_dict(), other.state_dict()
    assert (first["constant"], first["tasks"]) == (second["constant"], second["tasks"])
    assert first["constant"] > 0
    assert all(same_bits(first[part], second[part]) for part in ("curvature", "anchor"))
    kept = {name: value.clone() for name, value in first["anchor"].items()}
    chosen.remember(model, "third", sets["first"])
    assert same_bits(first["anchor"], kept), "a state that was taken does not move with the method"


def test_cut_off_in_the_second_episode_it_ends_the_same(tiny_llama, sets, tmp_path, snapshot, same_bits):
    class CutOff(Exception):
        pass

    def cut(step, steps, losses):
        if step == 25:
            raise CutOff

    models, chosen = [tiny_llama() for _ in range(3)], [fast(50.0) for _ in range(3)]
    for model, one in zip(models[:2], chosen, strict=False):
        run(model, one, "first", sets["first"])
    run(models[0], chosen[0], "second", sets["second"])
    with pytest.raises(CutOff):
        run(models[1], chosen[1], "second", sets["second"], folder=tmp_path, on_step=cut)
    run(models[2], chosen[2], "second", sets["second"], folder=tmp_path, on_warning=pytest.fail)
    assert same_bits(snapshot(models[0]), snapshot(models[2]))
    states = [one.state_dict() for one in chosen]
    assert same_bits(states[0]["curvature"], states[2]["curvature"])
    assert (states[0]["constant"], states[0]["tasks"]) == (states[2]["constant"], 2)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: method(strength=-1.0), "strength"),
        (lambda: method(strength=float("inf")), "strength"),
        (lambda: method(online=True, decay=1.5), "decay"),
        (lambda: method(labels="drawn"), "labels"),
        (lambda: EWC(method().objective), "pull"),
        (lambda: EWC(method().objective, pull=Consolidation(1.0), records_per_pass=0), "records_per_pass"),
    ],
)
def test_what_is_wrong_is_named(make, field):
    with pytest.raises(InputError, match=field):
        make()
