"""Unlearning to what the model says of strangers: records are answered as if about somebody unknown.

Each forget record is put beside the same record with other names in its prompt, the stranger. What the model, as it
was, says there at each token is what it would say of somebody it never saw, and that becomes the target for the record
itself:

    L_f = KL(p_0(. | stranger) || p(. | record))      mean over the forget set's scored tokens
    L_s = KL(p_0(. | stranger) || p(. | stranger))    mean over the strangers' scored tokens
    L_r = KL(p_0(. | retain) || p(. | retain))        mean over the retain set's scored tokens

p_0 is the model before training, at full precision, and takes no gradient. All three are 0 at the aim and bounded in
effect, so that a run that goes on too long overdoes nothing: words of form keep their probabilities, and only what is
told of the record's own people changes. They are taken here and at a rounded point, another rounding at each update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from remanent.core.alignment import aligned
from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.displacement import Displacement, Here, OneOf, Rounding
from remanent.core.divergence import kl_divergence
from remanent.core.method import At, Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError
from remanent.unlearning.kl_min import kl_to_reference

SYSTEM = System(
    name="as-stranger",
    title="Unlearning to what the model says of strangers, at several roundings",
    year=2026,
    arxiv="",
    card="",
    family="unlearning",
    reproduction="tests/reproductions/test_as_stranger.py",
    needs=("forget", "retain"),
    notes="Ours. Who's Harry Potter (arXiv 2310.02238) replaces names and trains on what the model says then, too; "
    "here the question is asked with other names and gives whole distributions over the same answer, the same is "
    "asked for at rounded weights, and nothing is reinforced first.",
)


@dataclass(frozen=True)
class AsStranger(Objective):
    """L_f, L_s and L_r as above, in float32.

    A scored token of a record and one of its stranger belong together where the two answers are worded alike
    (`core.alignment`); of a name in the answer that was swapped nothing is asked. L_f divides by all scored tokens of
    the forget records.
    """

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget", "stranger")),
        "stranger": Term("token", ("stranger",)),
        "retain": Term("token", ("retain",)),
    }
    paired: ClassVar[Mapping[str, str]] = {"stranger": "forget"}

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {role: predict(batches[role]).distribution for role in ("stranger", "retain") if role in batches}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches and "stranger" in batches:
            forget, stranger = batches["forget"], batches["stranger"]
            if stranger.live is None:
                expected = "the reference model's log-probabilities at scored positions"
                raise InputError("batches['stranger'].live", None, expected)
            here, there = aligned(forget, stranger)
            found["forget"] = kl_divergence(stranger.live[there], predict(forget).distribution[here]).sum()
        for role in ("stranger", "retain"):
            if role in batches:
                found[role] = kl_to_reference(batches[role], predict, role)
        return found


def method(
    forget_weight: float = 1.0,
    stranger_weight: float = 1.0,
    retain_weight: float = 4.0,
    roundings: str = "int4-row,int4-g32,nf4",
    rounded_weight: float = 1.0,
) -> Method:
    """Unlearning to what the model says of strangers.

    Args:
        forget_weight: weight of L_f at both points.
        stranger_weight: weight of L_s at both points.
        retain_weight: weight of L_r at both points.
        roundings: formats to take in turn, separated by commas; "" takes the losses at full precision only.
        rounded_weight: weight of the three losses at the rounded point.
    """
    points: list[At | Displacement] = [Here()]
    if roundings:
        rounded = OneOf(*(Rounding(name.strip()) for name in roundings.split(",")))
        points.append(At(rounded, weight=rounded_weight))
    weights = {"forget": forget_weight, "stranger": stranger_weight, "retain": retain_weight}
    return Method(AsStranger(), points=points, weights=weights, recipe=Recipe())
