"""Forgetting confidence: both forms agree; what is chosen; whose turn it is; the first fine-tuning leaves no trace."""

from __future__ import annotations

import pytest
import torch

from remanent.continual.learning_with_forgetting import forgetting_confidences, method
from remanent.core.batch import collate
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.scores import answer_scores
from remanent.core.weights import Weights
from remanent.errors import InputError


def episode(make_records):
    return Episode("one", "teach", {"task": make_records(6, seed=1), "forget": make_records(8, seed=2)})


def test_the_difference_is_that_of_the_whole_sum(tiny_llama, make_records):
    """1/2 sum F (w - a g - w*)^2, all of it, in float64, minus the same without a step."""
    model, records = tiny_llama(dtype=torch.float64), make_records(3, seed=2)
    weights, step = Weights.of(model), 0.3
    generator = torch.Generator().manual_seed(0)
    importance = {n: torch.rand(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
    apart = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
    found = forgetting_confidences(model, records, weights, importance, apart, step)
    for row, record in enumerate(records):
        model.zero_grad()
        (-answer_scores(model, collate([record], [0], 0)).log_probs.mean()).backward()
        whole = sum(float((importance[n] * (apart[n] - step * w.grad).square()).sum()) / 2 for n, w in weights.items())
        still = sum(float((importance[n] * apart[n].square()).sum()) / 2 for n in weights)
        assert float(found[row]) == pytest.approx((whole - still) / step, rel=1e-6)  # logits are float32


def test_the_first_fine_tuning_leaves_no_trace(tiny_llama, make_records, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    begun = with_settings(method(keep=0.5), steps=3, batch_size=2, learning_rate=1e-2).begin(
        model, episode(make_records)
    )
    assert same_bits(snapshot(model), before)
    assert not model.training
    assert len(begun.narrowed["forget"]) == 4


def test_the_records_of_highest_confidence_are_unlearned(tiny_llama, make_records):
    model, given = tiny_llama(), episode(make_records)
    chosen = with_settings(method(keep=0.25), steps=3, batch_size=2, learning_rate=1e-2)
    order = chosen.confidences(model, given.data["task"], given.data["forget"]).argsort(descending=True)
    kept = {record.key for record in chosen.begin(model, given).narrowed["forget"]}
    assert kept == {given.data["forget"][index].key for index in order[:2].tolist()}


def test_each_update_is_one_of_the_two(tiny_llama, make_records):
    chosen = with_settings(method(interval=3), steps=7, batch_size=2)
    seen = []
    run_episode(
        tiny_llama(),
        chosen,
        episode(make_records),
        Settings(0),
        on_step=lambda step, steps, losses: seen.append([n for n in losses if n != "gradient_norm"]),
    )
    assert seen == [["task@full"]] * 2 + [["forget@full"]] + [["task@full"]] * 2 + [["forget@full"]] + [["task@full"]]


def test_an_episode_with_ascent_goes_on_where_it_was_cut_off(tiny_llama, make_records, snapshot, same_bits, tmp_path):
    class CutOff(Exception):
        pass

    def cut(step, steps, losses):
        if step == 3:
            raise CutOff

    def run(model, **options):
        chosen = with_settings(method(interval=2), steps=5, batch_size=2, learning_rate=1e-3)
        run_episode(model, chosen, episode(make_records), Settings(0, checkpoint_every=2), **options)

    alone, resumed = tiny_llama(), tiny_llama()
    run(alone)
    with pytest.raises(CutOff):
        run(tiny_llama(), folder=tmp_path, on_step=cut)
    run(resumed, folder=tmp_path)
    assert same_bits(snapshot(resumed), snapshot(alone))


@pytest.mark.parametrize("given", [{"interval": 1}, {"keep": 0.0}, {"keep": 1.5}, {"step": -1.0}])
def test_what_is_wrong_is_named(given):
    with pytest.raises(InputError, match=next(iter(given))):
        method(**given)


def test_a_task_does_not_forget_itself(tiny_llama, make_records):
    records = make_records(4)
    with pytest.raises(InputError, match="the task's own records"):
        method().begin(tiny_llama(), Episode("one", "teach", {"task": records, "forget": records}))
