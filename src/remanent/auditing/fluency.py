"""Fluency: is what a model writes still language? Perplexity of true answers, entropy and repetition of its own.

Entropy of bigrams and trigrams after Zhang et al. (arXiv 1809.05972), weighted as in ROME (arXiv 2202.05262);
repetition after Welleck et al. (arXiv 1908.04319). Short answers have little entropy and repeat little whoever writes
them: read them beside the original's and the unseen control's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remanent.auditing.evidence import CONTROL, FORGET, RETAIN
from remanent.auditing.measure_names import ENTROPY, PERPLEXITY, REPETITION
from remanent.auditing.text_score import TextScore
from remanent.core.scores import score_records
from remanent.data.record import Record

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

ROOM = 64
WEIGHTS = {2: 2 / 3, 3: 4 / 3}
REPEATED = 4


def entropy(words: Sequence[str]) -> float:
    """The mean of 2/3 H_2 and 4/3 H_3, H_n the entropy in bits of the n-grams' shares; 0 where there are none."""
    return sum(weight * _entropy(words, length) for length, weight in WEIGHTS.items()) / len(WEIGHTS)


def repetition(words: Sequence[str], length: int = REPEATED) -> float | None:
    """The share of n-grams that stood there before: 1 - different ones / all. None where there is no n-gram."""
    grams = _grams(words, length)
    return 1 - len(set(grams)) / len(grams) if grams else None


def _entropy(words: Sequence[str], length: int) -> float:
    counts = Counter(_grams(words, length))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def _grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + length]) for place in range(len(words) - length + 1)]


@dataclass(frozen=True)
class Fluency:
    """Scores every true answer, and lets the model answer the first of each set itself."""

    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> Fluency:
        """The look; it takes what sets there are."""
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records scored and answered, at most."""
        return 2 * sum(len(named.get(name, ())) for name in (FORGET, RETAIN, CONTROL))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Perplexity's NLL of every record; entropy and repetition of the answers to the first `most` questions."""
        found: dict[str, list[TextScore]] = {}
        with measurer.at(condition) as model:
            for name in (FORGET, RETAIN, CONTROL):
                if name not in measurer.sets:
                    continue
                part = measurer.sets[name].asked(condition.prompts, measurer.tokenizer)
                nll = score_records(model, part.encoded, **measurer.how).mean_nll.tolist()
                values = [{PERPLEXITY: value} for value in nll]
                rows = [row for row, record in enumerate(part.records) if record.prompt][:most]
                answers = measurer.answers(model, [part.records[row] for row in rows], ROOM) if rows else []
                for row, answer in zip(rows, answers, strict=True):
                    words = answer.split()
                    values[row][ENTROPY] = entropy(words)
                    repeated = repetition(words)
                    if repeated is not None:
                        values[row][REPETITION] = repeated
                found[name] = [TextScore(*names, item) for names, item in zip(part.hashes, values, strict=True)]
        return found
