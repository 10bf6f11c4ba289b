"""Flat and durable unlearning, ours: forget at the worst point nearby, and say of the rest what was said before, here
and at a rounded point.

Three ways of getting forgotten records back move the weights a little: rounding, further training, and both. NPO's
bounded forget loss is taken where a step of length rho does most to bring them back, so that it is low all around
(flat-npo). What is kept is held by the divergence from the model before, not by its records' own likelihood: a
likelihood is improved on the records that are trained and says nothing of others of the same kind, while the divergence
is 0 at the start and pulls against every change. It is taken at a rounded point as well, another rounding at each
update, so that no precision is bought with the model (durable); there it is above 0 from the start, and pulls the
weights to where rounding changes little.
"""

from __future__ import annotations

import math

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent, Here, roundings_in_turn
from remanent.core.method import At, Method, Recipe
from remanent.errors import InputError
from remanent.unlearning.npo import NPOAndKL

SYSTEM = System(
    name="flat-durable",
    title="Flat and durable unlearning: NPO at the worst point nearby, the divergence on retain at several roundings",
    year=2026,
    arxiv="",
    card="",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_flat_durable.py",
    needs=("forget", "retain"),
    notes="Built from flat-npo's worst point (NPO+SAM, arXiv 2502.05374), NPO's divergence on retain and durable's "
    "rounded points; that they are put together is ours.",
)


def method(
    beta: float = 0.1,
    rho: float = 0.1,
    roundings: str = "int4-row,int4-g32,nf4",
    rounded_weight: float = 1.0,
    forget_weight: float = 1.0,
    retain_weight: float = 8.0,
) -> Method:
    """Flat and durable unlearning.

    Args:
        beta: NPO's inverse temperature.
        rho: radius of the worst point, w + rho g / ||g|| with g the forget loss's gradient over all that trains; at
            least 0.
        roundings: formats at which the divergence is taken too, in turn, separated by commas; "" takes it at the
            weights alone.
        rounded_weight: weight of the divergence at the rounded point.
        forget_weight: weight of the forget loss.
        retain_weight: weight of the divergence at both points, above 1 since the forget loss sums over an answer's
            tokens and this is a mean over tokens.
    """
    for name, value in (("rho", rho), ("rounded_weight", rounded_weight)):
        if not 0 <= value < math.inf:  # NaN is not
            raise InputError(name, value, "a finite number of at least 0")
    points = [At(Here(), ("retain",)), At(Ascent(rho), ("forget",))]
    if roundings:
        points.append(At(roundings_in_turn(roundings), ("retain",), weight=rounded_weight))
    return Method(
        NPOAndKL(beta),
        points=points,
        weights={"forget": forget_weight, "retain": retain_weight},
        recipe=Recipe(),
    )
