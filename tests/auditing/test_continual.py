from __future__ import annotations

import math

import pytest
import torch

from remanent.auditing.continual import SetScore, curve, degree, set_score
from remanent.core.scores import score_records
from remanent.data.encode import encode_all, pad_id
from remanent.data.record import Message, Record
from remanent.models.tiny import tiny

RECORDS = [Record(str(n), str(n), (Message("user", f"Who is {n}?"),), f"The king of {n}.") for n in range(5)]
PLAIN = [Record("t", "t", (), "Once upon a time.")]


def test_the_score_is_a_geometric_mean_by_hand():
    assert SetScore(0.5, 0.8, 0.25, 1.0).score == pytest.approx(100 * 0.1 ** (1 / 3))
    assert SetScore(0.5, 0.8, None, 1.0).score == pytest.approx(100 * 0.4**0.5)
    assert SetScore(0.5, 0.0, 0.9, 1.0).score == 0.0


@pytest.mark.parametrize(
    ("score", "line", "found"), [(50, 50, 1), (25, 50, 0.5), (75, 50, 0.5), (120, 50, 0), (0, 50, 0), (10, 0, 0)]
)
def test_degree_by_hand(score, line, found):
    assert degree(score, line) == pytest.approx(found)


def test_the_lines_run_from_before_to_as_if_all_had_been_obeyed():
    rows = [{"requests": n, "forget": {"score": s}, "retain": None} for n, s in ((0, 80.0), (5, 60.0), (10, 10.0))]
    found = curve(rows, {"forget": (80.0, 20.0), "retain": (80.0, 80.0)}, 10)
    assert [row["forget_line"] for row in found] == [80.0, 50.0, 20.0]
    assert [row["forget_degree"] for row in found] == pytest.approx([1.0, 0.8, 0.5])
    assert not any("retain_utility" in row for row in found)
    assert "forget_degree" not in rows[0]


def test_a_set_is_scored_as_its_records_are():
    loaded = tiny([*RECORDS, *PLAIN], hidden=32, layers=1, vocabulary=300)
    encoded = encode_all(RECORDS, loaded.tokenizer)
    scores = score_records(loaded.model, encoded, pad_id=pad_id(loaded.tokenizer))
    found = set_score(loaded.model, loaded.tokenizer, RECORDS, encoded)
    assert found.probability == pytest.approx(
        sum(math.exp(-float(nll)) for nll in scores.mean_nll) / len(RECORDS), rel=1e-6
    )
    assert found.accuracy == float(scores.hits.sum() / scores.tokens.sum())
    assert found.nll == pytest.approx(float(scores.mean_nll.mean()))
    assert found.rouge_l is None
    assert "score" in found.to_dict()


def test_answers_are_generated_without_their_prompts_and_compared(monkeypatch):
    loaded = tiny([*RECORDS, *PLAIN], hidden=32, layers=1, vocabulary=300)
    asked = []

    def answers(model, tokenizer, prompts, room, autocast):
        asked.extend(tokenizer.decode(prompt) for prompt in prompts)
        return [record.answer for record in RECORDS[: len(prompts)]]

    monkeypatch.setattr("remanent.auditing.continual.generate", answers)
    encoded = encode_all([*RECORDS, *PLAIN], loaded.tokenizer)
    found = set_score(loaded.model, loaded.tokenizer, [*RECORDS, *PLAIN], encoded, generated=9)
    assert found.rouge_l == pytest.approx(1.0)
    assert len(asked) == len(RECORDS)  # plain text asks nothing
    assert not any("king" in text for text in asked)
    asked.clear()
    set_score(loaded.model, loaded.tokenizer, RECORDS, encoded[:5], generated=2)
    assert len(asked) == 2
    plain = set_score(loaded.model, loaded.tokenizer, PLAIN, encoded[5:], generated=2)
    assert plain.rouge_l is None
    loaded.model.train()
    set_score(loaded.model, loaded.tokenizer, RECORDS, encoded[:5], generated=1)
    assert loaded.model.training
    assert not any(parameter.grad is not None for parameter in loaded.model.parameters())
    assert torch.is_grad_enabled()
