from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from remanent.core.batch import Encoded, collate
from remanent.core.scores import answer_scores, score_records


@pytest.fixture(params=["llama", "gpt2", "lora"])
def model(request, tiny_llama, tiny_gpt2, lora):
    return {"llama": tiny_llama, "gpt2": tiny_gpt2, "lora": lambda: lora(tiny_llama())}[request.param]()


class AllLogits(nn.Module):
    """The same model, which does not offer to keep some of its logits only."""

    def __init__(self, model, bare):
        super().__init__()
        self.model, self.bare = model, bare

    def forward(self, input_ids, attention_mask):
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return output.logits if self.bare else output


def test_it_is_transformers_own_loss(model, make_batch):
    batch = make_batch(5, longest=9)
    with torch.no_grad():
        expected = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        found = answer_scores(model, batch)
    torch.testing.assert_close(-found.log_probs.mean(), expected)


def test_by_hand(make_records):
    records = make_records(2, longest=5)
    batch = collate(records, [0, 1], 0)
    vocabulary = 48
    table = torch.randn(vocabulary, vocabulary)

    class Bigram(nn.Module):
        def forward(self, input_ids, attention_mask):
            return table[input_ids]

    found = answer_scores(Bigram(), batch)
    expected = []
    for row, record in enumerate(records):
        for position, label in enumerate(record.labels):
            if label != -100:
                logits = table[record.input_ids[position - 1]]
                expected.append((row, float(logits.log_softmax(0)[label]), bool(logits.argmax() == label)))
    assert found.rows.tolist() == [row for row, _, _ in expected]
    assert found.log_probs.tolist() == pytest.approx([value for _, value, _ in expected], rel=1e-5)
    assert found.hits.tolist() == [hit for _, _, hit in expected]
    assert found.counts.tolist() == [record.scored for record in records]
    sums = [-sum(value for row, value, _ in expected if row == record) for record in (0, 1)]
    assert found.nll.tolist() == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("bare", [True, False])
def test_keeping_some_logits_or_all_is_the_same(model, bare, make_batch):
    batch = make_batch(5, longest=9)
    kept = answer_scores(model, batch)
    everything = answer_scores(AllLogits(model, bare), batch)
    torch.testing.assert_close(kept.log_probs, everything.log_probs)
    assert torch.equal(kept.rows, everything.rows)
    assert torch.equal(kept.hits, everything.hits)
    gradients = []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for scores in (kept, everything):
        gradients.append(torch.autograd.grad(scores.nll.sum(), parameters))
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_logits_are_made_for_scored_positions_only(tiny_llama, make_batch):
    model, batch, shapes = tiny_llama(), make_batch(3, prompt=9, longest=4), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1]))
    answer_scores(model, batch)
    assert shapes == [batch.input_ids.shape[1] - 9]


def test_padding_on_the_right_changes_nothing(model, make_batch):
    batch = make_batch(4)
    more = 7

    def padded(tensor, value):
        return functional.pad(tensor, (0, more), value=value)

    longer = replace(
        batch,
        input_ids=padded(batch.input_ids, 5),
        attention_mask=padded(batch.attention_mask, 0),
        labels=padded(batch.labels, -100),
    )
    with torch.no_grad():
        torch.testing.assert_close(answer_scores(model, batch).nll, answer_scores(model, longer).nll, rtol=0, atol=1e-5)


def test_a_label_on_the_first_token_is_never_scored(tiny_llama):
    model = tiny_llama()
    labelled = collate([Encoded((5, 6, 7), (5, 6, 7))], [0], 0)
    plain = collate([Encoded((5, 6, 7), (-100, 6, 7))], [0], 0)
    assert torch.equal(answer_scores(model, labelled).log_probs, answer_scores(model, plain).log_probs)
    assert labelled.labels[0, 0] == 5  # and the batch is left as it was


def test_a_batch_without_a_scored_token_has_no_scores(tiny_llama):
    found = answer_scores(tiny_llama(), collate([Encoded((5, 6), (-100, -100))], [0], 0))
    assert found.log_probs.numel() == 0
    assert found.nll.tolist() == found.counts.tolist() == [0.0]


def test_the_softmax_is_float32_also_for_a_bf16_model(tiny_llama, make_batch):
    found = answer_scores(tiny_llama(dtype=torch.bfloat16), make_batch(3))
    assert found.log_probs.dtype == torch.float32
    assert not torch.equal(found.log_probs, found.log_probs.bfloat16().float())


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_of_a_set_do_not_depend_on_the_batch_size(batch_size, model, make_records):
    records = make_records(7, longest=9)
    counted = []
    found = score_records(model, records, pad_id=0, batch_size=batch_size, on_batch=counted.append)
    with torch.no_grad():
        for index, record in enumerate(records):
            alone = answer_scores(model, collate([record], [0], 0))
            assert float(found.nll[index]) == pytest.approx(float(alone.nll), abs=1e-4)
            assert float(found.hits[index]) == int(alone.hits.sum())
            assert float(found.tokens[index]) == record.scored
    assert sum(counted) == 7
    assert max(counted) <= batch_size
    torch.testing.assert_close(found.mean_nll, found.nll / found.tokens)


def test_scoring_a_set_is_without_dropout_and_gives_the_modes_back(tiny_gpt2, make_records):
    model, records = tiny_gpt2(dropout=0.5).train(), make_records(4)
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    first, second = (score_records(model, records, pad_id=0).nll for _ in range(2))
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == modes

    def fail(*arguments):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        score_records(model, records, pad_id=0, on_batch=fail)
    assert [module.training for module in model.modules()] == modes
