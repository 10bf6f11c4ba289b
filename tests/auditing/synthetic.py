"""Evidence made by hand: what each model scores on each set, with a little spread between groups."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    TEXT,
    ConditionInfo,
    Evidence,
    Measurement,
    RecordScore,
)

FULL = ConditionInfo("full", "full", "The saved files as they are.")
INT4 = ConditionInfo("int4-row", "precision", "Linear weights rounded to 16 values a row.")
ATTACK = ConditionInfo("relearning", "attack", "Fine-tuned on part of the forget set.", random=True)

GROUPS = {FORGET: 30, PARAPHRASED: 30, RETAIN: 40, CONTROL: 40, TEXT: 20}
LEARNED, UNSEEN, PLAIN = 0.15, 1.05, 3.0  # mean NLL of what was taught, of unseen records, of general text


def measured(
    subject: str,
    condition: str,
    records: str,
    nll: float,
    seed: int | None = None,
    groups: int | None = None,
    spread: float = 0.1,
) -> Measurement:
    """Two records a group; the same records have the same difficulty on every model."""
    count = GROUPS[records] if groups is None else groups
    generator = np.random.default_rng([len(records), count])
    effects = generator.normal(0, spread, count)
    effects -= effects.mean()
    wobble = np.random.default_rng([len(subject), len(condition), 0 if seed is None else seed]).normal(0, 0.01, count)
    scores = []
    for index in range(2 * count):
        group, value = index // 2, nll + effects[index // 2] + wobble[index // 2]
        hits = 10 if value < 0.3 else 6
        scores.append(RecordScore(named(records, index), named(records + "/group", group), float(value), 10, hits))
    return Measurement(subject, condition, records, tuple(scores), seed)


def named(records: str, index: int) -> str:
    """Looks like a keyed hash."""
    return hashlib.sha256(f"{records}/{index}".encode()).hexdigest()


def point(condition: str, subject: str, seed: int | None = None, **levels: float) -> list[Measurement]:
    """Measurements of one model at one condition; levels by name: forget, paraphrased, retain, control, text."""
    sets = {"forget": FORGET, "paraphrased": PARAPHRASED, "retain": RETAIN, "control": CONTROL, "text": TEXT}
    return [measured(subject, condition, sets[name], nll, seed) for name, nll in levels.items()]


def original(condition: str = "full", **changes: float) -> list[Measurement]:
    """It knows forget and retain, and not the control."""
    levels = {"forget": LEARNED, "retain": LEARNED, "control": UNSEEN, "text": PLAIN} | changes
    return point(condition, ORIGINAL, **levels)


def forgotten(condition: str = "full", **changes: float) -> list[Measurement]:
    """The aim: forget at the control, the rest as it was."""
    levels = {"forget": UNSEEN, "retain": LEARNED, "control": UNSEEN, "text": PLAIN} | changes
    return point(condition, AUDITED, **levels)


def evidence(
    *measurements: list[Measurement],
    conditions: tuple[ConditionInfo, ...] = (FULL,),
    settings: Mapping[str, Any] | None = None,
    **others: Any,
) -> Evidence:
    found = tuple(item for group in measurements for item in group)
    return Evidence(conditions, found, {"bootstrap_resamples": 400, **(settings or {})}, **others)
