"""What an audit measured, as plain data: the only thing that judging, certificates and reports read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = "remanent/evidence/v2"
READABLE = ("remanent/evidence/v1", SCHEMA)  # v1 had no measures

# Whose weights were measured.
AUDITED = "audited"
ORIGINAL = "original"
RETRAINED = "retrained"

# Which records were scored.
FORGET = "forget"
PARAPHRASED = "forget-paraphrased"
RETAIN = "retain"
CONTROL = "control"
CONTROL_PARAPHRASED = "control-paraphrased"
TEXT = "text"

# What no records are asked about: the weights, all of them or a layer's ("weights of layer 3").
WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class RecordScore:
    """One record, scored at one condition.

    Args:
        record: keyed hash of the record: it names the record without holding it.
        group: keyed hash of the record's group.
        nll: mean negative log-likelihood of its scored tokens, in nats.
        tokens: how many tokens were scored.
        hits: how many of them were the most likely token, teacher forced.
        rouge_l: ROUGE-L F1 of the greedy answer, in [0, 1]; None where nothing was generated.
    """

    record: str
    group: str
    nll: float
    tokens: int
    hits: int
    rouge_l: float | None = None

    @property
    def whole(self) -> bool:
        """Whether every token was right."""
        return self.hits == self.tokens


@dataclass(frozen=True, slots=True)
class Measurement:
    """One set of records, scored on one model at one condition.

    Args:
        subject: AUDITED, ORIGINAL or RETRAINED.
        condition: name of the condition.
        records: FORGET, PARAPHRASED, RETAIN, CONTROL, CONTROL_PARAPHRASED or TEXT.
        seed: seed of a random attack; None where the condition is deterministic.
        scores: one per record.
    """

    subject: str
    condition: str
    records: str
    scores: tuple[RecordScore, ...]
    seed: int | None = None

    @property
    def mean_nll(self) -> float:
        """Mean over the records of their answer NLL, in nats per token."""
        return sum(score.nll for score in self.scores) / len(self.scores)


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure about a whole set on one model at one condition: what an attacker could tell or take from it.

    Args:
        subject: AUDITED, ORIGINAL or RETRAINED.
        condition: name of the condition.
        records: FORGET or CONTROL ...; FORGET where forget is compared with the control; WEIGHTS where none are asked.
        name: of the measure, see `measures`.
        value: None where a score that it is made of is not finite.
        low: its lower bound, at a one-sided error of alpha; None where there is none.
        high: its upper bound, likewise.
        n: how many records it is made of; of weights, how many.
    """

    subject: str
    condition: str
    records: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class ConditionInfo:
    """What a condition is, for people.

    Args:
        name: as asked for, for example "int4-row".
        kind: "full", "precision", "attack" or "other".
        description: a sentence.
        random: whether it was repeated over seeds, of which the worst counts.
    """

    name: str
    kind: str
    description: str
    random: bool = False


@dataclass(frozen=True)
class Evidence:
    """Everything that one audit measured.

    Args:
        conditions: in the order in which they were measured.
        measurements: every (subject, condition, records, seed) that was scored.
        settings: score, thresholds and versions, as plain data: "epsilon" and "epsilon_over" (nats), "upsilon" (a
            share), "alpha" (one-sided error), "perplexity_factor", "compute_dtype" and what else explains the figures.
        subjects: subject -> file name -> sha256, of the files that were loaded.
        notes: sentences a reader must know: overlap found, control missing, attacks not run.
        movement: condition -> {"mean_steps", "moved_half_step", "code_changed"}: how far the audited weights lie from
            the original's, in steps of that rounding, without any data.
        measures: figures about whole sets: membership, extraction, truth ratio.
    """

    conditions: tuple[ConditionInfo, ...]
    measurements: tuple[Measurement, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    subjects: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    movement: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    measures: tuple[Measure, ...] = ()

    def find(self, subject: str, condition: str, records: str, seed: int | None = None) -> Measurement | None:
        """The measurement of that name, or None where it was not made."""
        for item in self.measurements:
            if (item.subject, item.condition, item.records, item.seed) == (subject, condition, records, seed):
                return item
        return None

    def measure(self, subject: str, condition: str, records: str, name: str) -> Measure | None:
        """The measure of that name, or None where it was not made."""
        for item in self.measures:
            if (item.subject, item.condition, item.records, item.name) == (subject, condition, records, name):
                return item
        return None

    def seeds(self, condition: str) -> list[int | None]:
        """The seeds over which a condition was measured on the audited model."""
        found = {item.seed for item in self.measurements if item.condition == condition and item.subject == AUDITED}
        return sorted(found, key=lambda seed: -1 if seed is None else seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; an NLL that is not finite is null there."""
        plain = {"schema": SCHEMA, **asdict(self)}
        plain["measurements"] = [measurement_to_dict(item) for item in self.measurements]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """Back from plain data. Raises KeyError or TypeError where it is not evidence."""
        if data["schema"] not in READABLE:
            raise TypeError(f"schema is {data['schema']!r}, not {SCHEMA!r}")
        return cls(
            conditions=tuple(ConditionInfo(**item) for item in data["conditions"]),
            measurements=tuple(measurement_from_dict(item) for item in data["measurements"]),
            settings=dict(data["settings"]),
            subjects={name: dict(files) for name, files in data["subjects"].items()},
            notes=tuple(data["notes"]),
            movement={name: dict(values) for name, values in data["movement"].items()},
            measures=tuple(Measure(**item) for item in data.get("measures", ())),
        )


def measurement_to_dict(item: Measurement) -> dict[str, Any]:
    """Plain data, for JSON, which knows no infinity: a broken model's NLL is null."""
    plain = asdict(item)
    for score in plain["scores"]:
        score["nll"] = score["nll"] if math.isfinite(score["nll"]) else None
    return plain


def measurement_from_dict(data: Mapping[str, Any]) -> Measurement:
    """Back from plain data; an NLL of null is NaN."""
    scores = [
        RecordScore(**{**item, "nll": math.nan if item["nll"] is None else item["nll"]}) for item in data["scores"]
    ]
    return Measurement(**{**data, "scores": tuple(scores)})
