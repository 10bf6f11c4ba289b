"""What an attacker could tell: the audit's measures on text as one small table, each model beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETRAINED, Evidence, Measure
from remanent.auditing.measure_names import (
    ANAMNESIS,
    ANAMNESIS_UNSEEN,
    ANSWERS,
    ATTACKS,
    DISTANCE,
    ENTROPY,
    EXACT,
    EXPOSURE,
    JENSEN_SHANNON,
    KULLBACK_LEIBLER,
    LEAK_GAP,
    LEAKED,
    LEAKED_ALONE,
    LIKELIHOOD,
    MEMBERSHIP,
    MEMORIZATION,
    PERPLEXITY,
    PRIV_LEAK,
    QUALITY,
    RELEARN_TIME,
    RELEARNED,
    REMIND_AROUND,
    REMIND_GAIN,
    REPETITION,
    SERVED,
    SERVED_ALONE,
    SERVED_GAP,
    STRENGTH,
    TPR,
    TRUTH,
    ZERO_RETRAIN,
)
from remanent.report.estimate import Estimate

_NAMES = {
    "loss": "loss",
    "zlib": "zlib",
    "min-k": "Min-K%",
    "min-k++": "Min-K%++",
    "reference": "against retrained",
    "gradient-norm": "gradient norm",
    "steepness": "steepness",
    "remind": "neighbourhood",
}
_LABELS = {
    **{MEMBERSHIP + attack: f"Membership AUC, {_NAMES[attack]}" for attack in ATTACKS},
    MEMBERSHIP + ANSWERS: "Membership AUC, sampled answers",
    **{MEMBERSHIP + attack + TPR: f"Found at 1% false alarms, {_NAMES[attack]}" for attack in ATTACKS},
    REMIND_AROUND: "Neighbourhood AUC, without the loss",
    REMIND_GAIN: "Neighbourhood AUC beyond the loss's",
    PRIV_LEAK: "PrivLeak, %",
    EXACT: "Exact memorization",
    STRENGTH: "Extraction strength",
    TRUTH: "Cannot tell true from false",
    QUALITY: "Forget quality, log₁₀ p",
    DISTANCE: "Truth ratios, distance to retrained",
    ANSWERS: "Best sampled answer, ROUGE-L",
    LEAKED: "Answer in a combined prompt, recall",
    LEAKED_ALONE: "The same asked alone, recall",
    LEAK_GAP: "More said where both are asked",
    SERVED: "Retained answer beside it, recall",
    SERVED_ALONE: "The same asked alone, recall",
    SERVED_GAP: "Less served where both are asked",
    RELEARNED: "Relearned records, likeness",
    LIKELIHOOD: "Extraction likelihood",
    MEMORIZATION: "Memorization accuracy",
    EXPOSURE: "Exposure, bits",
    PERPLEXITY: "Perplexity of the answer",
    ENTROPY: "Entropy of its own answers, bits",
    REPETITION: "Repetition in its own answers",
    JENSEN_SHANNON: "Divergence from the reference, bits",
    KULLBACK_LEIBLER: "KL from the reference, nats",
    ZERO_RETRAIN: "Zero retrain forgetting",
    RELEARN_TIME: "Updates until known again",
    ANAMNESIS: "Anamnesis index",
    ANAMNESIS_UNSEEN: "Known again, against unseen",
}
IDEALS = {
    **{MEMBERSHIP + attack: "0.5" for attack in (*ATTACKS, ANSWERS)},
    **{MEMBERSHIP + attack + TPR: "0.01" for attack in ATTACKS},
    REMIND_AROUND: "0.5",
    **dict.fromkeys((PRIV_LEAK, QUALITY, DISTANCE, REMIND_GAIN), "0"),
    **dict.fromkeys((EXACT, STRENGTH, TRUTH, ANSWERS, LEAKED, LEAKED_ALONE), "as unseen"),
    **dict.fromkeys((SERVED, SERVED_ALONE), "as original"),
    **dict.fromkeys((LEAK_GAP, SERVED_GAP), "0"),
    RELEARNED: "–",
    **dict.fromkeys((LIKELIHOOD, MEMORIZATION, EXPOSURE, PERPLEXITY, RELEARN_TIME), "as unseen"),
    **dict.fromkeys((ENTROPY, REPETITION), "as original"),
    **dict.fromkeys((JENSEN_SHANNON, KULLBACK_LEIBLER), "0"),
    ZERO_RETRAIN: "as retrained",
    **dict.fromkeys((ANAMNESIS, ANAMNESIS_UNSEEN), "1"),
}


@dataclass(frozen=True)
class AttackerRow:
    """One measure at one condition.

    Args:
        condition: name of the condition.
        name: of the measure.
        label: the same for people.
        ideal: what a model that never saw the records gives.
        audited, control, original, retrained: the figure on each model's forget set; `control` is the audited model's
            on unseen records, where the measure does not compare the two itself.
    """

    condition: str
    name: str
    label: str
    ideal: str
    audited: Estimate
    control: Estimate | None
    original: Estimate | None
    retrained: Estimate | None


def attacker_rows(evidence: Evidence) -> list[AttackerRow]:
    """Every measure of the audited model that has a value, in the order of the table; of each, one row a condition."""
    rows = []
    for info in evidence.conditions:
        for name, label in _LABELS.items():
            found = {
                subject: estimate_of(evidence.measure(subject, info.name, FORGET, name))
                for subject in (AUDITED, ORIGINAL, RETRAINED)
            }
            audited = found[AUDITED]
            if audited is None:
                continue
            control = estimate_of(evidence.measure(AUDITED, info.name, CONTROL, name))
            rows.append(
                AttackerRow(info.name, name, label, IDEALS[name], audited, control, found[ORIGINAL], found[RETRAINED])
            )
    return rows


def strongest(rows: Sequence[AttackerRow]) -> list[AttackerRow]:
    """Of each condition the membership attack whose AUC is furthest from chance, and the other figures; no rates."""
    best: dict[str, AttackerRow] = {}
    for row in rows:
        if row.name.startswith(MEMBERSHIP) and not row.name.endswith(TPR):
            other = best.get(row.condition)
            if other is None or abs(row.audited.value - 0.5) > abs(other.audited.value - 0.5):
                best[row.condition] = row
    shown = (EXACT, STRENGTH, TRUTH, PRIV_LEAK, QUALITY, ANSWERS)
    return [row for row in rows if row is best.get(row.condition) or row.name in shown]


def estimate_of(item: Measure | None) -> Estimate | None:
    """A measure as an estimate; None where it was not made, or has no value."""
    return None if item is None or item.value is None else Estimate(item.value, item.low, item.high)
