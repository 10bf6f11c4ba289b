from __future__ import annotations

import pytest
import torch

from remanent.core.update import Update
from remanent.unlearning.idk_nll import IdkNLL, method


def test_by_hand(answers, taken):
    refusal, retain = answers([1.0, 2.0], [6.0]), answers([1.0], [4.0])
    apart = taken(IdkNLL(), refusal=refusal, retain=retain)
    assert {name: value.item() for name, value in apart.items()} == pytest.approx({"forget": 3.0, "retain": 2.5})
    together = taken(IdkNLL(together=True), refusal=refusal, retain=retain)
    assert sum(together.values()).item() == pytest.approx((9.0 + 5.0) / 5)  # one mean over all five tokens
    assert together["forget"].item() == pytest.approx(9.0 / 5)


def test_it_descends_on_refusals_and_never_sees_the_old_answers(answers, taken):
    assert method().roles == ("refusal", "retain")
    refusal = answers([1.0, 2.0])
    taken(IdkNLL(), refusal=refusal, retain=answers([1.0]))["forget"].backward()
    assert refusal[1].nll.grad.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_one_mean_over_all_tokens_however_the_batches_are_split(micro_batch, tiny_llama, make_batch):
    model = tiny_llama()
    batches = {"refusal": make_batch(5, seed=1), "retain": make_batch(4, seed=2)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    update = Update(model, method(together=True), optimizer, steps=1, micro_batch=micro_batch)
    losses = update(batches)
    from remanent.core.scores import answer_scores

    scores = [answer_scores(model, batch) for batch in batches.values()]
    expected = -torch.cat([found.log_probs for found in scores]).mean()
    assert losses["forget@full"] + losses["retain@full"] == pytest.approx(expected.item(), rel=1e-5)
