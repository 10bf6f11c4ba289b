"""What an attacker could tell: the audit's measures on text as one small table, each model beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETRAINED, WEIGHTS, Evidence, Measure
from remanent.auditing.measure_names import (
    ACTIVATION_DISTANCE,
    AGREEMENT,
    ANAMNESIS,
    ANAMNESIS_UNSEEN,
    ANSWERS,
    ATTACKS,
    CLOSENESS,
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
    PROBABILITY_DISTANCE,
    PROBE_DISTANCE,
    PROBE_GAP,
    PROBE_GAP_MEAN,
    QUALITY,
    RELEARN_TIME,
    RELEARNED,
    RELEARNED_AREA,
    REMIND_AROUND,
    REMIND_GAIN,
    REPETITION,
    SERVED,
    SERVED_ALONE,
    SERVED_GAP,
    STRENGTH,
    TPR,
    TRUTH,
    WEIGHT_DISTANCE,
    ZERO_RETRAIN,
)
from remanent.core.estimate import Estimate

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
    RELEARNED: "Relearned records, likeness of words",
    CLOSENESS: "Relearned records, closeness of hidden states",
    RELEARNED_AREA: "Back over the steps relearned, nats",
    LIKELIHOOD: "Extraction likelihood",
    MEMORIZATION: "Memorization accuracy",
    EXPOSURE: "Exposure, bits",
    PERPLEXITY: "Perplexity of the answer",
    ENTROPY: "Entropy of its own answers, bits",
    REPETITION: "Repetition in its own answers",
    JENSEN_SHANNON: "Divergence from the reference, bits",
    KULLBACK_LEIBLER: "KL from the reference, nats",
    AGREEMENT: "Same likeliest token as the reference",
    PROBABILITY_DISTANCE: "Probabilities, distance from the reference",
    ACTIVATION_DISTANCE: "Last hidden states, distance from the reference",
    WEIGHT_DISTANCE: "Weights, distance from the reference",
    ZERO_RETRAIN: "Zero retrain forgetting",
    RELEARN_TIME: "Updates until known again",
    ANAMNESIS: "Anamnesis index",
    ANAMNESIS_UNSEEN: "Known again, against unseen",
    PROBE_DISTANCE: "Best probe of hidden states, 2 × accuracy − 1",
    PROBE_GAP: "Best probe beyond unseen against unseen",
    PROBE_GAP_MEAN: "Mean of all probes beyond unseen",
}
IDEALS = {
    **{MEMBERSHIP + attack: "0.5" for attack in (*ATTACKS, ANSWERS)},
    **{MEMBERSHIP + attack + TPR: "0.01" for attack in ATTACKS},
    REMIND_AROUND: "0.5",
    **dict.fromkeys((PRIV_LEAK, QUALITY, DISTANCE, REMIND_GAIN), "0"),
    **dict.fromkeys((EXACT, STRENGTH, TRUTH, ANSWERS, LEAKED, LEAKED_ALONE), "as unseen"),
    **dict.fromkeys((SERVED, SERVED_ALONE), "as original"),
    **dict.fromkeys((LEAK_GAP, SERVED_GAP), "0"),
    **dict.fromkeys((RELEARNED, CLOSENESS), "–"),
    RELEARNED_AREA: "as retrained",
    **dict.fromkeys((LIKELIHOOD, MEMORIZATION, EXPOSURE, PERPLEXITY, RELEARN_TIME), "as unseen"),
    **dict.fromkeys((ENTROPY, REPETITION), "as original"),
    **dict.fromkeys((JENSEN_SHANNON, KULLBACK_LEIBLER), "0"),
    AGREEMENT: "1",
    **dict.fromkeys((PROBABILITY_DISTANCE, ACTIVATION_DISTANCE), "0"),
    WEIGHT_DISTANCE: "–",
    ZERO_RETRAIN: "as retrained",
    **dict.fromkeys((ANAMNESIS, ANAMNESIS_UNSEEN), "1"),
    PROBE_DISTANCE: "as unseen",
    **dict.fromkeys((PROBE_GAP, PROBE_GAP_MEAN), "0"),
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
            about = WEIGHTS if name == WEIGHT_DISTANCE else FORGET
            found = {
                subject: estimate_of(evidence.measure(subject, info.name, about, name))
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


def layer_rows(evidence: Evidence) -> list[AttackerRow]:
    """How far each layer's weights lie from a reference's, at each condition at which they were compared."""
    found = []
    for item in evidence.measures:
        audited = estimate_of(item)
        if (item.subject, item.name) != (AUDITED, WEIGHT_DISTANCE) or item.records == WEIGHTS or audited is None:
            continue
        original, retrained = (
            estimate_of(evidence.measure(subject, item.condition, item.records, item.name))
            for subject in (ORIGINAL, RETRAINED)
        )
        label = item.records.removeprefix(f"{WEIGHTS} ").removeprefix("of ")
        ideal = IDEALS[WEIGHT_DISTANCE]
        found.append(AttackerRow(item.condition, item.name, label, ideal, audited, None, original, retrained))
    return found


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
