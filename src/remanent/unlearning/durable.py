"""Durable unlearning, ours: forget and retain here and at a rounded point, another rounding at each update.

Where DurableUn-SAF only forgets at the rounded weights, this also keeps there, so that no precision is bought with
the model; and since the rounding changes from update to update, the result is not fitted to one of them. The forget
loss is NPO's, which is bounded, and the stopping rule ends the run when the records are no better known than unseen
ones at every point.
"""

from __future__ import annotations

from remanent.core.catalogue import System
from remanent.core.displacement import Here, roundings_in_turn
from remanent.core.method import At, Method, Recipe
from remanent.unlearning.npo import NPO

SYSTEM = System(
    name="durable",
    title="Durable unlearning: forget and retain at several roundings",
    year=2026,
    arxiv="",
    card="",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_durableun.py",
    needs=("forget", "retain"),
    notes="Built from DurableUn-SAF's rounded point and NPO's bounded loss; the retain term at the rounded point and "
    "the change of rounding are ours.",
)


def method(
    beta: float = 0.1,
    roundings: str = "int4-row,int4-g32,nf4",
    rounded_weight: float = 1.0,
    forget_weight: float = 1.0,
    retain_weight: float = 8.0,
) -> Method:
    """Durable unlearning.

    Args:
        beta: NPO's inverse temperature.
        roundings: formats to take in turn, separated by commas.
        rounded_weight: weight of both losses at the rounded point.
        forget_weight: weight of the forget loss at both points.
        retain_weight: weight of the retain loss at both points, above 1 since the forget loss sums over an answer's
            tokens and this one is a mean over tokens.
    """
    return Method(
        NPO(beta),
        points=[Here(), At(roundings_in_turn(roundings), weight=rounded_weight)],
        weights={"forget": forget_weight, "retain": retain_weight},
        recipe=Recipe(),
    )
