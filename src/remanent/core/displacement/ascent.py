"""The worst point nearby, to first order: one normalized step up a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from remanent.core.displacement.base import Context, Displacement
from remanent.core.displacement.gradients import loss_and_gradients
from remanent.core.weights import Weights, norm
from remanent.errors import InputError

_TINY = 1e-12


@dataclass(frozen=True)
class Ascent(Displacement):
    """w + rho * g / ||g||, or with `adaptive` w + rho * T^2 g / ||T g||, T = |w| + eta elementwise.

    g is the gradient here of the loss (or of the loss named `of`); its norm is one number over all weights that take
    a gradient, in at least float32, and over all shards; of several processes each climbs the loss of its own
    records. The step is detached. A gradient of zero moves nothing.

    Args:
        rho: radius, at least 0.
        of: name of the loss to climb; None climbs the sum of all.
        adaptive: scale by the weights' magnitude (ASAM, equation 5).
        eta: added to |w| when adaptive, at least 0.

    Source: SAM, arXiv 2010.01412, equation 2; ASAM, arXiv 2102.11600, equation 5.
    """

    rho: float
    of: str | None = None
    adaptive: bool = False
    eta: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __post_init__(self) -> None:
        if not self.rho >= 0:  # NaN is not
            raise InputError("rho", self.rho, "a radius of at least 0")
        if not self.eta >= 0:
            raise InputError("eta", self.eta, "a number of at least 0")

    @property
    def held(self) -> int:
        return int(self.rho > 0)  # the gradient that it climbs, beside the update's own

    def moving(self, weights: Weights) -> Weights:
        return weights.trainable()

    def move(self, weights: Weights, context: Context) -> None:
        if self.rho == 0:
            return
        _, gradients = loss_and_gradients(weights, context.losses(self.of))
        climb(weights, gradients, dict.fromkeys(gradients, self))

    def scale(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """T g, whose norm is that of the step; g itself when not adaptive."""
        return (weight.abs() + self.eta) * gradient if self.adaptive else gradient

    def __str__(self) -> str:
        return f"ascent-{self.rho:g}" + (f"-{self.of}" if self.of else "") + ("-adaptive" if self.adaptive else "")


@torch.no_grad()
def climb(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], ascents: Mapping[str, Ascent]) -> float:
    """Move weights up gradients that are there already, each by its own Ascent; the norm is one over all of them.

    Returns the norm. Where it is not finite neither are the weights afterwards; those with a rho of 0 are not touched.
    """
    if any(ascents[name].adaptive for name in gradients):  # one tensor at a time: T g would be a copy of them all
        length = float(norm(ascents[name].scale(weights[name], gradient) for name, gradient in gradients.items()))
    else:
        length = float(norm(list(gradients.values())))
    if length == 0:
        return length
    for ascent in dict.fromkeys(ascents[name] for name in gradients):
        if ascent.rho == 0:  # 0 times an infinite gradient would be no number
            continue
        names = [name for name in gradients if ascents[name] == ascent]
        moved, up, factor = [weights[n] for n in names], [gradients[n] for n in names], ascent.rho / (length + _TINY)
        if not ascent.adaptive:
            torch._foreach_add_(moved, up, alpha=factor)
            continue
        for weight, gradient in zip(moved, up, strict=True):
            scaled = ascent.scale(weight, gradient)
            weight.add_(ascent.scale(weight, scaled), alpha=factor)
    return length
