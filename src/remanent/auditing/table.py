"""The evidence in figures: one row for each model, condition, set and seed, and no record of its own in any."""

from __future__ import annotations

import hashlib
import math
import zlib
from typing import Any

import numpy as np

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, PARAPHRASED, Evidence, Measurement
from remanent.auditing.intervals import Interval, auc_interval, mean_interval, newcombe_interval, wilson_interval
from remanent.auditing.judgement import Criteria
from remanent.auditing.place import sample_of


def evidence_table(evidence: Evidence, criteria: Criteria) -> list[dict[str, Any]]:
    """A row for each measurement: counts, mean NLL with its interval, token accuracy, whole answers, ROUGE-L."""
    return [_row(item, criteria) for item in evidence.measurements if item.scores]


def comparisons(evidence: Evidence, criteria: Criteria) -> list[dict[str, Any]]:
    """Forget against control on the audited model: AUC of the NLL, and the difference of whole answers.

    Shown, not judged. Newcombe's interval counts records, not groups, and is too short where records of one group
    stand or fall together.
    """
    rows = []
    for item in evidence.measurements:
        control = evidence.find(AUDITED, item.condition, CONTROL, item.seed)
        if item.subject != AUDITED or item.records not in (FORGET, PARAPHRASED) or control is None:
            continue
        if not (_finite(item) and _finite(control)):
            continue
        auc = auc_interval(
            sample_of(item.scores),
            sample_of(control.scores),
            _generator(criteria, "auc", item),
            criteria.alpha,
            criteria.bootstrap_resamples,
        )
        ours, theirs = _whole(item), _whole(control)
        share = newcombe_interval(ours, len(item.scores), theirs, len(control.scores), criteria.alpha)
        place = {"condition": item.condition, "records": item.records, "seed": item.seed}
        rows.append({**place, "auc": _plain(auc), "whole_answers_difference": _plain(share)})
    return rows


def record_sets(evidence: Evidence) -> list[dict[str, Any]]:
    """Which records were asked: how many, of how many groups, and a digest over their keyed hashes.

    Those of the forget sets are listed, so that whoever holds the secret can show that a record was among them.
    """
    asked: dict[str, dict[str, str]] = {}
    for item in evidence.measurements:
        asked.setdefault(item.records, {}).update({score.record: score.group for score in item.scores})
    rows = []
    for records, groups in asked.items():
        names = sorted(groups)
        row = {"records": records, "count": len(names), "groups": len(set(groups.values()))}
        row["digest"] = hashlib.sha256("\n".join(names).encode()).hexdigest()
        rows.append({**row, "hashes": names} if records in (FORGET, PARAPHRASED) else row)
    return rows


def _row(item: Measurement, criteria: Criteria) -> dict[str, Any]:
    whole = wilson_interval(_whole(item), len(item.scores), criteria.alpha)
    tokens = sum(score.tokens for score in item.scores)
    rouge = [score.rouge_l for score in item.scores if score.rouge_l is not None]
    nll = None
    if _finite(item):
        generator = _generator(criteria, "mean", item)
        nll = mean_interval(sample_of(item.scores), generator, criteria.alpha, criteria.bootstrap_resamples)
    return {
        "subject": item.subject,
        "condition": item.condition,
        "records": item.records,
        "seed": item.seed,
        "count": len(item.scores),
        "groups": len({score.group for score in item.scores}),
        "mean_nll": None if nll is None else _plain(nll),
        "token_accuracy": sum(score.hits for score in item.scores) / tokens if tokens else None,
        "whole_answers": {"count": _whole(item), **_plain(whole)},
        "rouge_l": sum(rouge) / len(rouge) if rouge else None,
    }


def _whole(item: Measurement) -> int:
    return sum(score.whole for score in item.scores)


def _finite(item: Measurement) -> bool:
    return bool(item.scores) and all(math.isfinite(score.nll) for score in item.scores)


def _generator(criteria: Criteria, purpose: str, item: Measurement) -> np.random.Generator:
    name = f"{purpose}/{item.subject}/{item.condition}/{item.records}/{item.seed}"
    return np.random.default_rng([criteria.bootstrap_seed, zlib.crc32(name.encode())])


def _plain(found: Interval) -> dict[str, float | None]:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {name: end if math.isfinite(end) else None for name, end in ends.items()}
