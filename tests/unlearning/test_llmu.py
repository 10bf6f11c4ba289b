from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.predict import Predict
from remanent.core.scores import answer_scores
from remanent.core.update import Update
from remanent.unlearning.llmu import LLMU, method, mismatched

ASKED = [Encoded((5, 6, 7, 8), (IGNORED, IGNORED, 7, 8)), Encoded((9, 10), (IGNORED, 10))]
ANSWERED = [
    Encoded((11, 12), (IGNORED, 12)),
    Encoded((13, 14, 15, 16, 17), (IGNORED, IGNORED, 15, IGNORED, 17)),
    Encoded((18, 19), (IGNORED, 19)),
]


def test_questions_of_one_batch_get_the_answers_of_another():
    found = mismatched(collate(ASKED, range(2), 0), collate(ANSWERED, range(3), 0))
    assert found.input_ids.tolist() == [[5, 6, 12, 0], [9, 15, 16, 17]]
    assert found.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert found.labels.tolist() == [[-100, -100, 12, -100], [-100, 15, -100, 17]]


def test_what_would_be_longer_than_any_record_loses_the_tail_of_its_answer(tiny_llama):
    found = mismatched(collate(ASKED, range(2), 0), collate(ANSWERED, range(3), 0), longest=3)
    assert found.input_ids.tolist() == [[5, 6, 12], [9, 15, 16]]
    assert found.labels.tolist() == [[-100, -100, 12], [-100, 15, -100]]
    # A long question and a long answer, each of a record that just fits the model.
    size = 32
    question = Encoded((*range(3, 34), 9), (*[IGNORED] * (size - 1), 9))
    answer = Encoded((5, *range(3, 34)), (IGNORED, *range(3, 34)))
    model, lengths = tiny_llama(), []
    model.register_forward_pre_hook(
        lambda module, inputs, named: lengths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    data = {"forget": [question], "retain": [answer]}
    run_episode(model, with_settings(method(), steps=1), Episode("one", "erase", data), Settings(0))
    assert max(lengths) == size


def test_by_hand(tiny_llama):
    """Each term as its own sentence says it, on a model."""
    model, objective = tiny_llama(), LLMU()
    batches = {"forget": collate(ASKED, range(2), 0), "retain": collate(ANSWERED, range(3), 0)}
    with torch.no_grad():
        live = objective.at_reference(batches, Predict(tiny_llama(seed=1)))
        batches["retain"] = replace(batches["retain"], live=live["retain"])
        losses = objective.losses(batches, Predict(model))
        means = {name: float(losses[name]) / objective.counted(name, batches) for name in objective.terms}

        def record_mean(records):
            each = [answer_scores(model, collate([record], [0], 0)).log_probs.mean() for record in records]
            return -float(torch.stack(each).mean())

        pairs = [Encoded((5, 6, 12), (IGNORED, IGNORED, 12)), Encoded((9, 15, 16, 17), (IGNORED, 15, IGNORED, 17))]
        assert means["forget"] == pytest.approx(-record_mean(ASKED), rel=1e-5)
        assert means["mismatch"] == pytest.approx(record_mean(pairs), rel=1e-5)
        now = answer_scores(model, batches["retain"]).distribution
        divergence = (live["retain"].exp() * (live["retain"] - now)).sum(dim=-1).mean()
        assert means["retain"] == pytest.approx(float(divergence), rel=1e-5)


def test_without_mismatch_it_is_ascent_held_by_the_divergence(tiny_llama, make_batch):
    """Where the divergence has no gradient yet, the update is ascent on the mean of each record."""
    model = tiny_llama()
    batches = {"forget": make_batch(4), "retain": make_batch(4, seed=2)}
    chosen = method(forget_weight=1.0, mismatch_weight=0.0)
    Update(model, chosen, torch.optim.SGD(model.parameters(), lr=0.0), steps=1).gradients(batches)
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    scores = answer_scores(model, batches["forget"])
    (-scores.nll / scores.counts).mean().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("records", [(5, 3), (3, 5)])
def test_more_records_of_one_role_than_of_the_other(records, tiny_llama, make_batch):
    model = tiny_llama()
    batches = {"forget": make_batch(records[0]), "retain": make_batch(records[1], seed=2)}
    losses = [
        Update(model, method(), torch.optim.SGD(model.parameters(), lr=0.0), steps=1, micro_batch=size)(batches)
        for size in (None, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-5)
    assert LLMU().counted("mismatch", batches) == 3


def test_text_without_a_prompt_is_its_own_answer():
    text = Encoded((5, 6, 7), (5, 6, 7))
    found = mismatched(collate([text], [0], 0), collate([text], [0], 0))
    assert found.input_ids.tolist() == [[5, 6, 7]]
    assert found.units("token") == 2
