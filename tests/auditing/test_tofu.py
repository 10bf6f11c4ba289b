"""TOFU's numbers against open-unlearning's code on the same logits, model utility by hand, and the look at a model.

golden/tofu.json holds numbers that open-unlearning's functions gave at the commit it names, on the logits and labels
that are made here.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, RETAIN
from remanent.auditing.intervals import Sample
from remanent.auditing.judgement import WARNED, Criteria
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.auditing.membership import priv_leak
from remanent.auditing.required_line import required_lines
from remanent.auditing.text_score import TextScore
from remanent.auditing.tofu import Utility, chosen_probability, harmonic_mean, true_better, utility_interval
from remanent.auditing.truth_ratio import cannot_tell, forget_quality, log_truth_ratio
from remanent.core.batch import IGNORED, Batch
from remanent.core.scores import answer_scores
from remanent.data.authors import author_sets
from remanent.errors import InputError
from remanent.models.tiny import tiny

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tofu.json").read_text())
RECORDS, TOKENS, VOCABULARY = 12, 9, 11


class Fixed(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        grid = np.meshgrid(np.arange(RECORDS), np.arange(TOKENS), np.arange(VOCABULARY), indexing="ij")
        row, token, word = grid
        self.logits = torch.tensor(3 * np.sin(0.7 * row + 1.3 * token + 2.1 * word + shift), dtype=torch.float32)

    def forward(self, input_ids, attention_mask):
        return self.logits


def losses(kind: int, shift: float = 0.0) -> list[float]:
    """Mean NLL of each record's answer of a kind: 0 is right, 1 to 3 are wrong."""
    labels = torch.full((RECORDS, TOKENS), IGNORED)
    for row in range(RECORDS):
        for token in range(2 + row % 3, 6 + row % 4):
            labels[row, token] = (7 * row + 3 * token + kind) % VOCABULARY
    batch = Batch(labels.clamp(min=0), torch.ones_like(labels), labels, torch.arange(RECORDS))
    scores = answer_scores(Fixed(shift), batch)
    return (scores.nll / scores.counts).tolist()


def ratios(shift: float) -> list[float]:
    right, *wrong = (losses(kind, shift) for kind in range(4))
    return [log_truth_ratio(right[row], [part[row] for part in wrong]) for row in range(RECORDS)]


def test_probability_and_truth_ratio_are_open_unlearnings():
    right, *wrong = (losses(kind) for kind in range(4))
    of_row = [[part[row] for part in wrong] for row in range(RECORDS)]
    assert right == pytest.approx(GOLDEN["loss"], rel=1e-5)
    assert [math.exp(-value) for value in right] == pytest.approx(GOLDEN["probability"], rel=1e-5)
    assert np.exp(ratios(0.0)).tolist() == pytest.approx(GOLDEN["truth_ratio"], rel=1e-5)
    assert np.mean([cannot_tell(value) for value in ratios(0.0)]) == pytest.approx(GOLDEN["cannot_tell"], rel=1e-5)
    better = [true_better(own, others) for own, others in zip(right, of_row, strict=True)]
    assert np.mean(better) == pytest.approx(GOLDEN["true_better"], rel=1e-5)
    chosen = [chosen_probability(own, others) for own, others in zip(right, of_row, strict=True)]
    assert chosen == pytest.approx(GOLDEN["chosen_probability"], rel=1e-5)


def test_forget_quality_utility_and_priv_leak_are_open_unlearnings():
    found = forget_quality(ratios(0.0), ratios(0.5))
    assert 10**found.log10_p == pytest.approx(GOLDEN["forget_quality"], rel=1e-6)
    assert harmonic_mean(GOLDEN["utility_numbers"]) == pytest.approx(GOLDEN["utility"], rel=1e-12)

    def sample(values, name):
        return Sample(values, [f"{name}{row}" for row in range(len(values))])

    control = sample(np.arange(50.0), "c")
    ours, theirs = (sample(np.full(4, auc * 50 - 0.5), "f") for auc in (0.9, 0.48))
    found = priv_leak((ours, control), (theirs, control), np.random.default_rng(0), resamples=20)
    assert found.value == pytest.approx(GOLDEN["priv_leak"], rel=1e-6)


def test_the_test_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    one, two = generator.normal(size=40), generator.normal(0.4, 1, 55)
    peer = stats.ks_2samp(one, two)
    found = forget_quality(one, two)
    assert (found.statistic, found.log10_p) == (pytest.approx(peer.statistic), pytest.approx(math.log10(peer.pvalue)))


def scores(name, **values):
    return [TextScore(f"{name}{row}", f"{name}{row // 2}", dict(values)) for row in range(8)]


def test_model_utility_by_hand():
    assert harmonic_mean([0.5, 0.25]) == pytest.approx(1 / 3)
    assert harmonic_mean([0.9, 0.0]) == 0.0  # one thing unlearned whole
    parts = [
        scores("r", probability=0.5, recall=0.5, **{"true-better": 0.5}),
        scores("a", probability=0.25, recall=0.25, **{"true-better": 0.25}),
    ]
    found = utility_interval(parts, np.random.default_rng(0), resamples=200)
    assert (found.value, found.low, found.high) == tuple(map(pytest.approx, (1 / 3, 1 / 3, 1 / 3)))
    parts[1] = [
        TextScore(score.record, score.group, {**score.values, "recall": float(row < 4)})
        for row, score in enumerate(parts[1])
    ]
    found = utility_interval(parts, np.random.default_rng(0), resamples=400)
    assert found.low < found.value < found.high
    found = {(AUDITED, "tofu", RETAIN): parts[0], (AUDITED, "tofu", "real-authors"): parts[1]}
    made = measures(found, Criteria(bootstrap_resamples=300))
    (utility,) = [item for item in made if item.name == "model-utility"]
    assert utility.value == pytest.approx(6 / (3 / 0.5 + 2 / 0.25 + 1 / 0.5))
    assert (utility.records, utility.n) == (RETAIN, 16)


def test_of_one_group_no_limit_on_utility_is_decided():
    """Eight records, however much alike, tell nothing of how groups differ; so too where one group alone answers."""
    one = [replace(score, group="r") for score in scores("r", probability=0.5, recall=0.9)]
    some = [
        replace(score, values={name: value for name, value in score.values.items() if name != "recall" or row < 2})
        for row, score in enumerate(scores("s", probability=0.5, recall=0.9))
    ]
    for part in (one, some):
        found = utility_interval([scores("a", probability=0.5), part], np.random.default_rng(0), resamples=200)
        assert (found.value, found.low, found.high) == (pytest.approx(3 / (2 / 0.5 + 1 / 0.9)), 0.0, 1.0)
        made = measures({(AUDITED, "utility", RETAIN): part}, Criteria(bootstrap_resamples=300))
        lines = required_lines(made, ["model-utility>=0.5", "model-utility>=0.9", "model-utility<=0.9"])
        assert [line.verdict for line in lines] == [WARNED] * 3


def test_a_model_is_asked():
    sets = author_sets(4, forget=2, retain=3, control=2, questions=2)
    named = {FORGET: sets.forget, RETAIN: sets.retain, CONTROL: sets.control}
    made = tiny([item for part in named.values() for item in part], hidden=32)
    measurer = Measurer(
        AUDITED,
        made.model,
        made.tokenizer,
        {name: AuditSet.of(part, made.tokenizer, str) for name, part in named.items()},
    )
    (_, condition) = parse_conditions("utility")
    found = Utility().given(named)(measurer, condition, 2)
    assert {name: len(part) for name, part in found.items()} == {FORGET: 4, RETAIN: 6, CONTROL: 4}
    assert [set(score.values) for score in found[RETAIN]] == [{"probability", "true-better", "recall"}] * 2 + [
        {"probability", "true-better"}
    ] * 4
    keyed = {(AUDITED, "utility", name): part for name, part in found.items()}
    made_of = measures(keyed, Criteria(bootstrap_resamples=300))
    utility = next(item for item in made_of if item.name == "model-utility")
    assert 0 <= utility.low <= utility.value <= utility.high <= 1
    assert condition.info.kind == "other"
    with pytest.raises(InputError, match="retain set with questions"):
        Utility().given({FORGET: sets.forget})


def test_tofus_further_sets(monkeypatch):
    sets = author_sets(4, forget=1, retain=2, control=1, questions=1)
    asked = []
    monkeypatch.setattr("remanent.auditing.tofu.load", lambda name, role: asked.append(name) or list(sets.control))
    ready = Utility(tofu=True).given({RETAIN: sets.retain})
    assert set(ready.further) == {"real-authors", "world-facts"}
    assert asked == ["tofu:real_authors_perturbed", "tofu:world_facts_perturbed"]
    assert repr(ready) == "Utility(tofu=True)"
    without = [type(record)(record.key, record.group, record.prompt, record.answer) for record in sets.retain]
    with pytest.raises(InputError, match="wrong answers"):
        Utility(tofu=True).given({RETAIN: without})
