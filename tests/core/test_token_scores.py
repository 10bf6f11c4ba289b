from __future__ import annotations

import math

import pytest
import torch

from remanent.core.scores import score_records
from remanent.core.token_scores import moments, token_scores


def test_it_agrees_with_the_scores_of_records(tiny_llama, make_records):
    model, records = tiny_llama().train(), make_records(7, longest=9)
    found = token_scores(model, records, pad_id=0, batch_size=3)
    expected = score_records(model, records, pad_id=0, batch_size=3)
    assert model.training
    assert [item.nll for item in found] == pytest.approx(expected.mean_nll.tolist(), rel=1e-6)
    assert [int(item.hits.sum()) for item in found] == expected.hits.tolist()
    assert [len(item.log_probs) for item in found] == [record.scored for record in records]


def test_tokens_come_in_order_with_the_moments_of_their_distributions(tiny_llama, make_records):
    model, (record,) = tiny_llama(), make_records(1, longest=6, seed=3)
    (found,) = token_scores(model, [record], pad_id=0)
    with torch.no_grad():
        distributions = model(input_ids=torch.tensor([record.input_ids])).logits[0].double().log_softmax(-1)
    for place, position in enumerate(p for p, label in enumerate(record.labels) if label != -100):
        row = distributions[position - 1]
        mean = float((row.exp() * row).sum())
        assert float(found.log_probs[place]) == pytest.approx(float(row[record.labels[position]]), rel=1e-5)
        assert float(found.means[place]) == pytest.approx(mean, rel=1e-5)
        spread = math.sqrt(float((row.exp() * (row - mean) ** 2).sum()))
        assert float(found.deviations[place]) == pytest.approx(spread, rel=1e-4)


def test_moments_by_hand():
    # p = (1/2, 1/2, 0): every token that can come has log 1/2. p = (3/4, 1/4, 0): two values.
    mean, deviation = moments(torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]]).log())
    expected = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert mean.tolist() == pytest.approx([math.log(0.5), expected])
    # The spread of two values with shares 3/4 and 1/4 is sqrt(3/16) times their distance, log 3.
    assert deviation.tolist() == pytest.approx([0.0, math.sqrt(3) / 4 * math.log(3)], abs=1e-6)


def test_moments_do_not_depend_on_the_block(monkeypatch):
    rows = torch.randn(10, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    whole = moments(rows)
    monkeypatch.setattr("remanent.core.token_scores._ROWS", 3)
    assert all(torch.equal(one, other) for one, other in zip(whole, moments(rows), strict=True))
