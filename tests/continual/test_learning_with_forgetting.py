"""Forgetting confidence: both forms agree; what is chosen; whose turn it is; the first fine-tuning leaves no trace."""

from __future__ import annotations

import pytest
import torch

from remanent.continual.learning_with_forgetting import forgetting_confidences, method, own_answers
from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.decoding import Greedy, Sampled
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


def likeliest(model, prompt, most):
    """One token at a time, until the end token."""
    found = []
    while len(found) < most and (not found or found[-1] != 2):
        with torch.no_grad():
            found.append(int(model(input_ids=torch.tensor([[*prompt, *found]])).logits[0, -1].argmax()))
    return tuple(found)


def test_own_answers_are_what_the_model_writes_to_each_prompt(tiny_llama, make_records):
    model = tiny_llama(dropout=0.5).train()
    records = make_records(4, seed=1) + make_records(3, seed=2, prompt=6)
    state, seen = torch.get_rng_state(), []
    given = {"decoding": Greedy(), "max_new_tokens": 5, "batch_size": 3}
    found = own_answers(model, records, on_batch=seen.append, **given)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert seen == [3, 3, 1]
    model.eval()
    for record, own in zip(records, found, strict=True):
        prompt = record.input_ids[: record.labels.count(IGNORED)]
        answer = likeliest(model, prompt, 5)
        assert (own.key, own.group) == (record.key, record.group)
        assert own.input_ids == prompt + answer
        assert own.labels == (IGNORED,) * len(prompt) + answer


def test_an_answer_ends_with_the_end_token_and_one_that_says_nothing_is_left_out(tiny_llama, make_records):
    model, records = tiny_llama(tied=False), make_records(12, seed=1)
    given = {"decoding": Greedy(), "max_new_tokens": 5}
    answers = [likeliest(model, record.input_ids[:3], 5) for record in records]
    place = next(index for index, answer in enumerate(answers) if answer[2] not in answer[:2])
    asked, answer = records[place], answers[place]
    model.generation_config.eos_token_id = [answer[2], next(token for token in range(48) if token not in answer)]
    [own] = own_answers(model, [asked], **given)
    assert own.input_ids == asked.input_ids[:3] + answer[:3]
    model.generation_config.eos_token_id = answer[0]
    rest = [record.key for record, other in zip(records, answers, strict=True) if other[0] != answer[0]]
    assert [own.key for own in own_answers(model, records, **given)] == rest
    assert asked.key not in rest


def test_answers_are_drawn_by_the_seed_alone(tiny_llama, make_records):
    model, records = tiny_llama(), make_records(6, seed=1)
    one = own_answers(model, records, max_new_tokens=4, seed=1)
    torch.manual_seed(99)
    assert own_answers(model, records, max_new_tokens=4, seed=1) == one
    assert own_answers(model, records, max_new_tokens=4, seed=2) != one
    several = own_answers(model, records[:2], max_new_tokens=4, decoding=Sampled(1.0, samples=3))
    assert [own.key for own in several].count(records[0].key) <= 3
    assert {own.key for own in several} == {record.key for record in records[:2]}


def test_a_prompt_alone_is_asked_and_plain_text_is_refused(tiny_llama):
    [own] = own_answers(tiny_llama(), [Encoded((1, 7, 5), (IGNORED,) * 3)], max_new_tokens=1, decoding=Greedy())
    assert own.input_ids[:3] == (1, 7, 5)
    assert own.scored == 1
    with pytest.raises(InputError, match="plain text"):
        own_answers(tiny_llama(), [Encoded((1, 7, 5), (1, 7, 5), key="a")])


@pytest.mark.parametrize("given", [{"interval": 1}, {"keep": 0.0}, {"keep": 1.5}, {"step": -1.0}])
def test_what_is_wrong_is_named(given):
    with pytest.raises(InputError, match=next(iter(given))):
        method(**given)


def test_a_task_does_not_forget_itself(tiny_llama, make_records):
    records = make_records(4)
    with pytest.raises(InputError, match="the task's own records"):
        method().begin(tiny_llama(), Episode("one", "teach", {"task": records, "forget": records}))
    other = make_records(1, seed=7)
    chosen = with_settings(method(keep=1.0), steps=1, batch_size=2)
    begun = chosen.begin(tiny_llama(), Episode("one", "teach", {"task": records, "forget": [*records, *other]}))
    assert begun.narrowed["forget"] == other
