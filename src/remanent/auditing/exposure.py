"""Exposure: how high a record's own answer stands among others of the same form, by how likely the model finds them.

Carlini et al., The Secret Sharer (arXiv 1802.08232), definition 5: log2 |R| - log2 rank, R the answer and its wrong
ones, rank 1 the likeliest. In bits. An answer that was never seen, whose rank is as likely any, has on average
log2 |R| - log2(|R|!) / |R|: 0.50 of 2 answers, 1.00 of 6, 1.42 of 256, towards 1.44. Answers are ranked by their summed
NLL, so that they should be as long as each other (`data.canaries`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from remanent.auditing.evidence import CONTROL, FORGET
from remanent.auditing.measure_names import EXPOSURE
from remanent.auditing.text_score import TextScore
from remanent.core.scores import score_records
from remanent.data.encode import encode_all
from remanent.data.record import Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer


def exposure(own: float, others: Sequence[float]) -> float:
    """log2 |R| - log2 rank, in bits: from 0 to log2 (others + 1).

    Args:
        own: summed NLL of the answer.
        others: of the wrong ones, at least one. One that is as likely counts half before it.

    NaN where one of them is.
    """
    if not others:
        raise InputError("others", "none", "the NLL of at least one other answer")
    if math.isnan(own + math.fsum(others)):
        return math.nan
    rank = 1 + sum(other < own for other in others) + sum(other == own for other in others) / 2
    return math.log2((len(others) + 1) / rank)


@dataclass(frozen=True)
class Exposure:
    """Ranks the answers of forget and control among their wrong ones."""

    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> Exposure:
        """The look. Raises InputError where no forget record has wrong answers."""
        if not any(record.wrong_answers for record in named.get(FORGET, ())):
            raise InputError("at", "exposure", "forget records with wrong answers, such as canaries:forget")
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Answers scored."""
        return sum(1 + len(item.wrong_answers) for name in (FORGET, CONTROL) for item in named.get(name, ()))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Of each record with wrong answers; `most` is left alone, since nothing is generated."""
        found: dict[str, list[TextScore]] = {}
        with measurer.at(condition) as model:
            for name in (FORGET, CONTROL):
                part = measurer.sets.get(name)
                rows = [row for row, item in enumerate(part.records) if item.wrong_answers] if part else []
                if part is None or not rows:
                    continue
                asked = [
                    replace(part.records[row], answer=answer)
                    for row in rows
                    for answer in (part.records[row].answer, *part.records[row].wrong_answers)
                ]
                encoded = encode_all(asked, measurer.tokenizer, measurer.max_length)
                nll = iter(score_records(model, encoded, **measurer.how).nll.tolist())
                found[name] = []
                for row in rows:
                    own, others = next(nll), [next(nll) for _ in part.records[row].wrong_answers]
                    found[name].append(TextScore(*part.hashes[row], {EXPOSURE: exposure(own, others)}))
        return found
