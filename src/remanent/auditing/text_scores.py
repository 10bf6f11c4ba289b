"""Every record of the forget set and the control, by all that is measured on its text, at one condition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from torch import nn

from remanent.auditing.condition import Condition
from remanent.auditing.evidence import CONTROL, FORGET, RETAIN
from remanent.auditing.extraction import exact_memorization, extraction_strength
from remanent.auditing.measure import TEXT_MEASURED, AuditSet, Measurer
from remanent.auditing.measure_names import ANSWERS, EXACT, STRENGTH, TRUTH
from remanent.auditing.membership import member_likeness
from remanent.auditing.text_score import TextScore
from remanent.auditing.truth_ratio import log_truth_ratio
from remanent.core.scores import score_records
from remanent.core.token_scores import TokenScores, token_scores
from remanent.data.encode import encode_all, pad_id
from remanent.data.record import Record

ANSWERED = (FORGET, RETAIN, CONTROL)


def text_scores(measurer: Measurer, condition: Condition, truth_ratio: bool = True) -> dict[str, list[TextScore]]:
    """Set -> its records' figures, in order, at a condition without an attack.

    Those of `member_likeness`, "exact-memorization", "extraction-strength", and the logarithm of the "truth-ratio"
    where the record has wrong answers.

    Args:
        truth_ratio: whether wrong answers are scored too: as many passes more as a record has answers.
    """
    names = [name for name in TEXT_MEASURED if name in measurer.sets]
    # Without wrong answers to score, what one pass has left of each token is enough.
    scored = not truth_ratio and all((condition.info.name, name) in measurer.tokens for name in names)
    with nullcontext(measurer.model) if scored else measurer.at(condition) as model:
        return {
            name: _of_set(
                measurer,
                model,
                measurer.sets[name].asked(condition.prompts, measurer.tokenizer),
                measurer.tokens.get((condition.info.name, name)),
                truth_ratio,
            )
            for name in names
        }


def drawn_answers(measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
    """Set -> the best ROUGE-L of its first `most` records' answers, drawn as the condition says."""
    found = measurer.generate(condition, ANSWERED, most)
    return {
        name: [
            TextScore(key, group, {ANSWERS: found[name, key]})
            for key, group in measurer.sets[name].hashes
            if (name, key) in found
        ]
        for name in ANSWERED
        if name in measurer.sets
    }


def _of_set(
    measurer: Measurer, model: nn.Module, part: AuditSet, found: list[TokenScores] | None, truth_ratio: bool
) -> list[TextScore]:
    found = found or token_scores(model, part.encoded, **measurer.how)
    ratios = _truth_ratios(measurer, model, part.records, found) if truth_ratio else {}
    special = set(measurer.tokenizer.all_special_ids)
    scores = []
    for place, (record, tokens, (key, group)) in enumerate(zip(part.records, found, part.hashes, strict=True)):
        hits = _content(tokens.hits.numpy(), part.encoded[place].labels[-1], special)
        sound = bool(tokens.log_probs.isfinite().all())  # else the likeliest token is any
        values = {
            **member_likeness(tokens, record.answer),
            EXACT: exact_memorization(hits) if sound else math.nan,
            STRENGTH: extraction_strength(hits) if sound else math.nan,
        }
        if place in ratios:
            values[TRUTH] = ratios[place]
        scores.append(TextScore(key, group, values))
    return scores


def _content(hits: np.ndarray, last: int, special: set[int]) -> np.ndarray:
    """Without the token that ends the answer, which every trained model knows (as OpenUnlearning has it)."""
    return hits[:-1] if last in special and len(hits) > 1 else hits


def _truth_ratios(
    measurer: Measurer, model: nn.Module, records: Sequence[Record], found: Sequence[TokenScores]
) -> dict[int, float]:
    """Place of a record that has wrong answers -> log of its truth ratio; all answers are scored in one pass."""
    asked = list(_answers(records))
    if not asked:
        return {}
    encoded = encode_all([record for _, _, record in asked], measurer.tokenizer, measurer.max_length)
    nll = score_records(
        model, encoded, pad_id=pad_id(measurer.tokenizer), batch_size=measurer.batch_size, autocast=measurer.autocast
    ).mean_nll.tolist()
    right: dict[int, float] = {}
    wrong: dict[int, list[float]] = {}
    for (place, true, _), value in zip(asked, nll, strict=True):
        if true:
            right[place] = value
        else:
            wrong.setdefault(place, []).append(value)
    return {place: log_truth_ratio(right.get(place, found[place].nll), values) for place, values in wrong.items()}


def _answers(records: Sequence[Record]) -> Iterator[tuple[int, bool, Record]]:
    """Place, whether it is true, and the record with that answer: wrong ones, and the true one in other words."""
    for place, record in enumerate(records):
        if record.wrong_answers and record.paraphrased_answer:
            yield place, True, replace(record, answer=record.paraphrased_answer)
        for answer in record.wrong_answers:
            yield place, False, replace(record, answer=answer)
