"""NPO whose forget loss is taken near the weights and not at them, so that it is low all around: flat forgetting.

Whoever relearns or rounds a model moves its weights a little. What was forgotten in a sharp minimum of the forget loss
comes back by that; the forget loss at the worst point nearby, or at random points nearby, asks for a flat one. The
retain loss stays at the weights themselves.
"""

from __future__ import annotations

from typing import Literal, get_args

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent, Displacement, Here, Noise, roundings_in_turn
from remanent.core.displacement.scale import Scale
from remanent.core.method import At, Method, Recipe
from remanent.core.off_gradients import off_newest
from remanent.errors import InputError, did_you_mean
from remanent.unlearning.npo import NPO

SYSTEM = System(
    name="flat-npo",
    title="NPO that forgets flat: the forget loss at the worst point nearby, at random ones, or at rounded ones",
    year=2025,
    arxiv="2502.05374",
    card="",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_flat_forgetting.py",
    needs=("forget", "retain"),
    notes="The paper's NPO+SAM and NPO+RS; its gradient penalty, curvature regularization and weight averaging are not "
    "here. Roundings and directions are ours.",
)

Around = Literal["ascent", "noise", "roundings"]


def method(
    around: str = "ascent",
    rho: float = 0.01,
    sigma: float = 1e-4,
    scale: Scale = "none",
    draws: int = 3,
    roundings: str = "int4-row,int4-g32,nf4",
    beta: float = 0.1,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
    directions: int = 0,
) -> Method:
    """NPO with a forget loss near the weights.

    Args:
        around: "ascent" takes it at w + rho g / ||g||, g its own gradient; "noise" at random points, others at each
            update, and averages; "roundings" at the weights and at one of several roundings in turn, and averages.
        rho: radius of "ascent", at least 0.
        sigma: standard deviation of "noise", at least 0, in units of `scale`.
        scale: "none": absolute, as in the paper; "tensor", "row": of a tensor's or a row's root mean square.
        draws: random points in an update, at least 1.
        roundings: formats, separated by commas.
        beta: NPO's inverse temperature.
        forget_weight: weight of the forget loss, of its points together.
        retain_weight: weight of the retain loss.
        directions: how many of the newest retain gradients the forget gradient is taken off, as in durable; ours, and
            0, which adds the two up, is the paper's.

    Source: arXiv 2502.05374, NPO+SAM and NPO+RS; where losses are taken, as in OPTML-Group/Unlearn-Smooth, fc655ba.
    """
    if around not in get_args(Around):
        raise InputError("around", around, did_you_mean(around, get_args(Around)))
    if draws < 1:
        raise InputError("draws", draws, "at least 1 random point")
    places: dict[str, list[Displacement]] = {
        "ascent": [Ascent(rho)],
        "noise": [Noise(sigma, seed=draw, scale=scale, fresh=True, trained=True) for draw in range(draws)],
        "roundings": [Here(), roundings_in_turn(roundings)],
    }
    near = places[around]
    return Method(
        NPO(beta),
        points=[At(Here(), ("retain",)), *(At(point, ("forget",), weight=1 / len(near)) for point in near)],
        weights={"forget": forget_weight, "retain": retain_weight},
        combine=off_newest(directions),
        recipe=Recipe(),
    )
