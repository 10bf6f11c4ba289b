"""Durable unlearning, ours: forget and retain here and at a rounded point, another rounding at each update.

Where DurableUn-SAF only forgets at the rounded weights, this also keeps there, so that no precision is bought with
the model; and since the rounding changes from update to update, the result is not fitted to one of them. The forget
loss is NPO's, which is bounded, and the stopping rule ends the run when the records are no better known than unseen
ones at every point. The forget gradient is taken off the span of the newest retain gradients, which is GU's idea, here
without the optimizer's metric, so that any optimizer will do.
"""

from __future__ import annotations

import math

from remanent.core.catalogue import System
from remanent.core.displacement import Displacement, Here, roundings_in_turn
from remanent.core.method import At, Method, Recipe
from remanent.core.off_gradients import off_newest
from remanent.errors import InputError
from remanent.unlearning.npo import NPO

SYSTEM = System(
    name="durable",
    title="Durable unlearning: forget and retain at several roundings, off the retain gradients",
    year=2026,
    arxiv="",
    card="",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_durableun.py",
    needs=("forget", "retain"),
    notes="Built from DurableUn-SAF's rounded point, NPO's bounded loss and GU's projection; the retain term at the "
    "rounded point and the change of rounding are ours.",
)


def method(
    beta: float = 0.1,
    roundings: str = "int4-row,int4-g32,nf4",
    rounded_weight: float = 1.0,
    forget_weight: float = 1.0,
    retain_weight: float = 8.0,
    directions: int = 4,
) -> Method:
    """Durable unlearning.

    Args:
        beta: NPO's inverse temperature.
        roundings: formats to take in turn, separated by commas; "" takes the losses at full precision only.
        rounded_weight: weight of both losses at the rounded point.
        forget_weight: weight of the forget loss at both points.
        retain_weight: weight of the retain loss at both points, above 1 since the forget loss sums over an answer's
            tokens and this one is a mean over tokens.
        directions: how many of the newest retain gradients the forget gradient is taken off; each costs half a copy of
            the weights that train. 0 adds the two up.
    """
    if not 0 <= rounded_weight < math.inf:  # NaN is not
        raise InputError("rounded_weight", rounded_weight, "a finite number of at least 0")
    points: list[At | Displacement] = [Here()]
    if roundings:
        points.append(At(roundings_in_turn(roundings), weight=rounded_weight))
    return Method(
        NPO(beta),
        points=points,
        weights={"forget": forget_weight, "retain": retain_weight},
        combine=off_newest(directions),
        recipe=Recipe(),
    )
