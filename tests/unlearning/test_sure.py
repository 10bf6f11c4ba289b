from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.predict import Predict
from remanent.core.saliency_mask import saliency
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.kl_min import KLMin
from remanent.unlearning.npo import NPO, NPOAndKL
from remanent.unlearning.sure import method


@pytest.fixture
def episode(make_records):
    return Episode("one", "erase", {"forget": make_records(6, seed=1), "retain": make_records(8, seed=2)})


def test_the_top_tenth_of_rows_and_of_single_entries_of_vectors_moves(tiny_llama, episode):
    model = tiny_llama()
    mask = method().begin(model, episode).mask
    norms = []
    for name, part in saliency(model, episode.data["forget"], Weights.of(model)).items():
        rows = mask[name] if mask[name].dim() == 1 else mask[name].all(dim=1)
        assert int(mask[name].sum()) == int(rows.sum()) * (mask[name].numel() // len(rows)), f"{name}: whole rows"
        norm = part if part.dim() == 1 else part.square().sum(dim=1).sqrt()
        norms += list(zip(norm.tolist(), rows.tolist(), strict=True))
    norms.sort(reverse=True)
    chosen = [moves for _, moves in norms]
    assert sum(chosen) == round(0.1 * len(norms))
    assert all(chosen[: sum(chosen)])


@pytest.mark.parametrize(("architecture", "inputs"), [("mixtral", 2), ("gpt_oss", 1)])
def test_rows_of_experts_are_their_neurons(architecture, inputs, tiny_mixture, episode):
    mask = method().begin(tiny_mixture(architecture), episode).mask
    found = [mask[name] for name in mask if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    assert all(torch.equal(part.all(dim=inputs), part.any(dim=inputs)) for part in found)
    experts = [expert for part in found for expert in part]
    assert any(bool(expert.any()) and not bool(expert.all()) for expert in experts)


def test_other_rows_stay_bit_for_bit_whatever_decays(tiny_llama, episode, snapshot):
    model = tiny_llama()
    before, mask = snapshot(model), method().begin(model, episode).mask
    chosen = with_settings(method(), steps=5, batch_size=3, learning_rate=1e-2, weight_decay=0.5)
    run_episode(model, chosen, episode, Settings(pad_id=0))
    for name, weight in Weights.of(model).items():
        assert torch.equal(weight.detach()[~mask[name]], before[name][~mask[name]]), name
    assert any(bool((weight.detach() != before[name]).any()) for name, weight in Weights.of(model).items())


def test_losses_and_settings():
    assert method().objective == NPO(0.1)
    assert method(loss="grad-ascent").objective == GradDiff()
    assert method(threshold=99.0).share == pytest.approx(0.01)
    assert method(threshold=0.0).share == 1.0
    with pytest.raises(InputError, match="threshold"):
        method(threshold=100.0)
    assert method(loss="grad-ascent", retain="kl").objective == KLMin()
    with pytest.raises(InputError, match="retain"):
        method(retain="mse")
    with pytest.raises(InputError, match="loss"):
        method(loss="simnpo")


def test_with_the_divergence_the_forget_term_is_npos_and_the_retain_term_kl_mins(tiny_llama, make_batch):
    before, now = Predict(tiny_llama()), Predict(tiny_llama(seed=1))
    forget, retain = make_batch(3), make_batch(4, seed=2)
    with torch.no_grad():
        forget = forget.with_reference(before(forget).nll)
        live = NPOAndKL().at_reference({"forget": forget, "retain": retain}, before)
        batches = {"forget": forget, "retain": replace(retain, live=live["retain"])}
        found = NPOAndKL(0.3).losses(batches, now)
        assert set(live) == {"retain"}
        assert found["forget"] == NPO(0.3).losses(batches, now)["forget"]
        assert found["retain"] == KLMin().losses(batches, now)["retain"] > 0
