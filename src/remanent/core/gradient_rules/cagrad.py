"""CAGrad: the gradient near the mean one that serves the worst-off task best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from remanent.core.gradient_rules.min_norm import length, min_norm, rounding
from remanent.core.gradient_rules.rule import GradientRule
from remanent.errors import InputError


@dataclass(frozen=True)
class CAGrad(GradientRule):
    """d = argmax of min_i <g_i, d> over |d - g0| <= c |g0|, g0 the mean gradient.

    By its dual, min over the simplex of <g_w, g0> + c |g0| |g_w|, g_w = sum w_i g_i: d = g0 + c |g0| g_w / |g_w|. For a
    given |g_w| = t that is the least-norm point of the gradients g_i + t / (c |g0|) g0, so that a root in t is left.
    Where g_w is 0, or cancels to what rounding leaves of 0, no step serves all, and the gradient is 0.

    Args:
        c: radius, at least 0 and below 1; 0 is the mean.
        rescale: 1 divides by 1 + c^2, 2 by 1 + c, 0 by nothing.

    Source: Liu et al., arXiv 2110.14048, equations 3 and 4; `rescale` from LibMTL.
    """

    c: float = 0.5
    rescale: Literal[0, 1, 2] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.c < 1:
            raise InputError("c", self.c, "a number from 0 to below 1")
        if self.rescale not in (0, 1, 2):
            raise InputError("rescale", self.rescale, "0, 1 or 2")

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        from scipy.optimize import brentq  # heavy, and only needed here

        size = len(gramian)
        mean = torch.full((size,), 1 / size, dtype=torch.float64)
        longest = math.sqrt(float(gramian.diagonal().max()))
        radius = self.c * length(gramian, mean)
        divisor = {0: 1.0, 1: 1 + self.c**2, 2: 1 + self.c}[self.rescale]
        if radius <= self.c * rounding(gramian, mean):
            return mean / divisor

        def towards(wanted: float) -> Tensor:
            shift = torch.eye(size, dtype=torch.float64) + wanted / (radius * size)
            return min_norm(shift @ gramian @ shift)

        def excess(wanted: float) -> float:
            return wanted - length(gramian, towards(wanted))

        least = rounding(gramian, min_norm(gramian))
        if excess(least) >= 0:
            return torch.zeros_like(mean)
        weights = towards(brentq(excess, least, longest * (1 + 1e-9), xtol=1e-13 * longest))
        total: Tensor = (mean + radius / length(gramian, weights) * weights) / divisor
        return total
