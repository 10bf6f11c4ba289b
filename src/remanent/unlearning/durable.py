"""Durable unlearning, ours: forget and retain here and at a rounded point, another rounding at each update.

Where DurableUn-SAF only forgets at the rounded weights, this also keeps there, so that no precision is bought with
the model; and since the rounding changes from update to update, the result is not fitted to one of them. The forget
loss is NPO's, which is bounded, and the stopping rule ends the run when the records are no better known than unseen
ones at every point. The forget gradient is taken off the span of the newest retain gradients, which is GU's idea, here
without the optimizer's metric, so that any optimizer will do.
"""

from __future__ import annotations

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent, Displacement, Here, roundings_in_turn
from remanent.core.method import At, Method, Recipe
from remanent.core.off_gradients import off_newest
from remanent.errors import InputError
from remanent.unlearning.npo import objective

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
    rho: float = 0.0,
    roundings: str = "int4-row,int4-g32,nf4",
    rounded_weight: float = 1.0,
    forget_weight: float = 1.0,
    retain_loss: str = "nll",
    retain_weight: float = 8.0,
    directions: int = 4,
) -> Method:
    """Durable unlearning.

    Args:
        beta: NPO's inverse temperature.
        rho: radius of the worst point nearby, w + rho g / ||g|| with g the forget loss's gradient, at which the forget
            loss is taken in place of the weights and the rounded point; 0 takes it at these two.
        roundings: formats to take in turn, separated by commas; "" takes no loss at a rounded point.
        rounded_weight: weight of the losses at the rounded point.
        forget_weight: weight of the forget loss at each of its points.
        retain_loss: "nll", or "kl": the divergence from the reference, as in npo.
        retain_weight: weight of the retain loss at each of its points, above 1 since the forget loss sums over an
            answer's tokens and this one is a mean over tokens.
        directions: how many of the newest retain gradients the forget gradient is taken off; each costs half a copy of
            the weights that train. 0 adds the two up.
    """
    if not rho >= 0:
        raise InputError("rho", rho, "a radius of at least 0")
    roles = ("retain",) if rho else None
    points: list[At | Displacement] = [At(Here(), roles), At(Ascent(rho), ("forget",))] if rho else [Here()]
    if roundings:
        points.append(At(roundings_in_turn(roundings), roles, weight=rounded_weight))
    return Method(
        objective(beta, retain_loss),
        points=points,
        weights={"forget": forget_weight, "retain": retain_weight},
        combine=off_newest(directions),
        recipe=Recipe(),
    )
