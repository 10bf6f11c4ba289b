"""TOFU's model utility: how well what was not to be forgotten is still known, as one harmonic mean.

Maini et al. (arXiv 2401.06121). On each set three numbers: probability, ROUGE-L recall of greedy answers, truth ratio.
Numbers agree with open-unlearning's code at commit d3d7cf9 on the same losses (tests/auditing/golden/tofu.json).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from remanent.auditing.evidence import CONTROL, FORGET, RETAIN
from remanent.auditing.intervals import Interval
from remanent.auditing.measure_names import PROBABILITY, RECALL, TRUE_BETTER
from remanent.auditing.text_score import TextScore
from remanent.core.scores import score_records
from remanent.data.encode import encode_all
from remanent.data.named import load
from remanent.data.record import Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

NUMBERS = (PROBABILITY, RECALL, TRUE_BETTER)
FURTHER = {"real-authors": "tofu:real_authors_perturbed", "world-facts": "tofu:world_facts_perturbed"}
NEW_TOKENS = 200
_LEAST = 1e-10  # under denominators, as in TOFU's code


@dataclass(frozen=True)
class Utility:
    """Asks the retain set, and for TOFU's nine numbers its real authors and world facts, by TOFU's measures.

    Args:
        tofu: whether real authors and world facts are asked too.
        further: name -> records of those; left out of the repr.
    """

    tofu: bool = False
    further: Mapping[str, Sequence[Record]] = field(default_factory=dict, repr=False)
    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> Utility:
        """With TOFU's further sets, where they are asked. Raises InputError where retain asks no question."""
        if not any(record.prompt for record in named.get(RETAIN, ())):
            raise InputError("at", "tofu" if self.tofu else "utility", "a retain set with questions")
        if not self.tofu:
            return self
        if not all(record.wrong_answers for record in named[RETAIN]):
            raise InputError("at", "tofu", "retain records with wrong answers, such as tofu:retain_perturbed")
        return replace(self, further={name: load(source, "at") for name, source in FURTHER.items()})

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records answered and scored."""
        parts = [*(named.get(name, ()) for name in (RETAIN, FORGET, CONTROL)), *self.further.values()]
        return sum(2 + len(record.wrong_answers) for part in parts for record in part)

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """The three numbers of each record with a question; ROUGE of the first `most` of each set, if any."""
        sets = {
            name: [(record, names) for record, names in zip(part.records, part.hashes, strict=True) if record.prompt]
            for name in (RETAIN, FORGET, CONTROL)
            if (part := measurer.sets.get(name)) is not None
        }
        # Public records, which need no keyed hash.
        sets |= {name: [(record, (record.key, record.group)) for record in part] for name, part in self.further.items()}
        with measurer.at(condition) as model:
            return {
                name: _of_set(measurer, model, rows, name in self.further, most) for name, rows in sets.items() if rows
            }


def _of_set(
    measurer: Measurer, model: nn.Module, rows: Sequence[tuple[Record, tuple[str, str]]], chosen: bool, most: int
) -> list[TextScore]:
    asked: list[Record] = []
    for record, _ in rows:
        # Real authors and world facts have no paraphrase: the answer itself counts as the right one.
        right = record.answer if chosen else record.paraphrased_answer or record.answer
        asked += [record, replace(record, answer=right)]
        asked += [replace(record, answer=wrong) for wrong in record.wrong_answers]
    encoded = encode_all(asked, measurer.tokenizer, measurer.max_length)
    nll = iter(score_records(model, encoded, **measurer.how).mean_nll.tolist())
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    answers = iter(measurer.answers(model, [record for record, _ in rows[:most]], NEW_TOKENS) if most else ())
    found = []
    for record, names in rows:
        own, right = next(nll), next(nll)
        wrong = [next(nll) for _ in record.wrong_answers]
        values = {PROBABILITY: chosen_probability(own, wrong) if chosen else math.exp(-own)}
        if wrong:
            values[TRUE_BETTER] = true_better(right, wrong)
        answer = next(answers, None)
        if answer is not None:
            values[RECALL] = float(scorer.score(record.answer, answer)["rougeL"].recall)
        found.append(TextScore(*names, values))
    return found


def chosen_probability(own: float, wrong: Sequence[float]) -> float:
    """P / (P + sum of the wrong answers' P), each P = exp(-mean NLL): TOFU's probability where choices are given."""
    right = math.exp(-own)
    return right / (right + math.fsum(math.exp(-value) for value in wrong) + _LEAST)


def true_better(right: float, wrong: Sequence[float]) -> float:
    """max(0, 1 - r), r the wrong answers' probability over the right one's: 1 where the true answer is far likelier."""
    better = 1 - math.exp(-sum(wrong) / len(wrong)) / (math.exp(-right) + _LEAST)
    return better if math.isnan(better) else max(0.0, better)


def harmonic_mean(numbers: Sequence[float]) -> float:
    """n over the sum of reciprocals; 0 where one of them is, NaN where one is none."""
    if any(math.isnan(number) for number in numbers):
        return math.nan
    return 0.0 if min(numbers) <= 0 else len(numbers) / math.fsum(1 / number for number in numbers)


def utility_interval(
    sets: Sequence[Sequence[TextScore]], generator: np.random.Generator, alpha: float = 0.05, resamples: int = 2000
) -> Interval:
    """The harmonic mean of each set's means, by the percentiles of a cluster bootstrap within each set.

    From 0 to 1 where a number was asked of one group alone, whose spread over groups nothing tells.

    Args:
        sets: of each set its records' numbers; a number that none of a set's records has is left out.
        generator: draws the groups.
        alpha: one-sided error of each end.
        resamples: draws.
    """
    means, drawn, groups = [], [], []
    for scores in sets:
        names, where = np.unique([score.group for score in scores], return_inverse=True)
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
        for number in NUMBERS:
            there = np.array([number in score.values for score in scores])
            if not there.any():
                continue
            values = np.array([score.values.get(number, 0.0) for score in scores])
            sums = np.bincount(where, values, len(names))
            sizes = np.bincount(where, there, len(names))
            means.append(float(sums.sum() / sizes.sum()))
            groups.append(int(np.count_nonzero(sizes)))
            held = np.maximum(counts @ sizes, 1)  # a draw without the number: it was asked of few
            drawn.append((counts @ sums) / held)
    if min(groups) < 2 or math.isnan(math.fsum(means)):
        return Interval(harmonic_mean(means), 0.0, 1.0)
    rows = np.array(drawn)
    with np.errstate(divide="ignore"):
        found = np.where(rows.min(axis=0) > 0, len(rows) / (1 / rows).sum(axis=0), 0.0)
    low, high = np.quantile(found, [alpha, 1 - alpha])
    return Interval(harmonic_mean(means), float(low), float(high))
