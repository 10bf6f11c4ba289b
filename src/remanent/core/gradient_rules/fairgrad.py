"""FairGrad: every task gains as alpha-fairness has it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.min_norm import length, min_norm, rounding
from remanent.core.gradient_rules.rule import GradientRule
from remanent.errors import InputError, UnsupportedError

_STEPS = 200
_EXACT = 1e-13  # of the residual's terms: what more steps do not better
_ENOUGH = 1e-6  # largest relative residual that is given out


@dataclass(frozen=True)
class FairGrad(GradientRule):
    """w > 0 with (A w)_i = w_i^(-1 / alpha) for all i, A the Gramian.

    Solved to rounding, or where gradients nearly cancel to a relative residual of at most 1e-6; UnsupportedError where
    that is not reached. Scaling the gradients by s scales the result by s^((1 - alpha) / (1 + alpha)): with an alpha
    above 1 smaller gradients give a larger one. With `normalize` it scales by s, as other rules' do. Where 0 is in the
    gradients' convex hull there is no w, and the gradient is 0.

    Args:
        alpha: above 0; 1 is NashMTL.
        normalize: solve for A / mean_i A_ii.

    Source: Ban and Ji, arXiv 2402.15638, equation 4; `normalize` is ours.
    """

    alpha: float = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise InputError("alpha", self.alpha, "a finite number above 0")

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return fair_weights(gramian, self.alpha, self.normalize)


def fair_weights(gramian: Tensor, alpha: float, normalize: bool) -> Tensor:
    """w > 0 with (A w)_i = w_i^(-1 / alpha), of A or of A / mean_i A_ii; 0 where there is none.

    The minimum of the convex w^T A w / 2 - sum Phi(w_i), Phi' = w^(-1 / alpha), by damped Newton steps.
    """
    scale = float(gramian.diagonal().mean())
    if scale == 0:
        return torch.zeros(len(gramian), dtype=torch.float64)
    scaled = gramian / scale
    nearest = min_norm(scaled)
    if length(scaled, nearest) <= rounding(scaled, nearest):
        return torch.zeros_like(nearest)
    found = _minimum(scaled, alpha)
    return found if normalize else found * scale ** (-alpha / (1 + alpha))


def _minimum(gramian: Tensor, alpha: float) -> Tensor:
    power = 1 / alpha
    if alpha > 4:  # from a smaller alpha's: far from the minimum such a curve is next to straight, and steps too long
        weights = _minimum(gramian, alpha / 2)
    else:
        weights = gramian.diagonal() ** (-alpha / (1 + alpha))  # right where gradients are orthogonal
    for _ in range(_STEPS):
        wanted = weights**-power
        slope = gramian @ weights - wanted
        if bool((slope.abs() <= _EXACT * (wanted + gramian.abs() @ weights)).all()):
            return weights
        # In relative weights, which differ by less than the weights do, so that rounding takes less.
        curvature = weights[:, None] * gramian * weights + torch.diag(power * wanted * weights)
        relative = -torch.linalg.solve(curvature, weights * slope)
        step = weights * relative
        share = min(1.0, 0.99 / max(1e-300, float((-relative).max())))
        # Judged by the slope along the step, which must not turn: rounding hides what the value gains where gradients
        # nearly cancel.
        most = -0.1 * float(slope @ step)
        while share > 1e-10:
            tried = weights + share * step
            if float((gramian @ tried - tried**-power) @ step) <= most:
                break
            share /= 2
        weights = weights + share * step
    if bool((slope.abs() <= _ENOUGH * wanted).all()):
        return weights
    raise UnsupportedError(f"no fair weights with an alpha of {alpha} in {_STEPS} steps: take an alpha nearer to 1")
