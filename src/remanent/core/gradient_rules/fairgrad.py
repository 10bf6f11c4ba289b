"""FairGrad: every task gains as alpha-fairness has it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.min_norm import min_norm
from remanent.core.gradient_rules.rule import GradientRule
from remanent.errors import InputError

_PARETO = 1e-12  # of the mean square of the gradients: the hull's least square below which 0 is in the hull
_STEPS = 200
_EXACT = 1e-12  # largest relative residual


@dataclass(frozen=True)
class FairGrad(GradientRule):
    """w > 0 with (A w)_i = w_i^(-1 / alpha) for all i, A the Gramian.

    Solved exactly. Scaling the gradients by s scales the result by s^((1 - alpha) / (1 + alpha)): with an alpha above 1
    smaller gradients give a larger one. With `normalize` it scales by s, as other rules' do. Where 0 is in the
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
    if float(nearest @ scaled @ nearest) <= _PARETO:
        return torch.zeros_like(nearest)
    found = _minimum(scaled, alpha)
    return found if normalize else found * scale ** (-alpha / (1 + alpha))


def _minimum(gramian: Tensor, alpha: float) -> Tensor:
    power = 1 / alpha

    def value(weights: Tensor) -> float:
        gain = weights.log() if alpha == 1 else weights ** (1 - power) / (1 - power)
        return float(weights @ gramian @ weights / 2 - gain.sum())

    weights = gramian.diagonal() ** (-alpha / (1 + alpha))  # right where gradients are orthogonal
    for _ in range(_STEPS):
        wanted = weights**-power
        slope = gramian @ weights - wanted
        if float((slope / wanted).abs().max()) < _EXACT:
            break
        step = -torch.linalg.solve(gramian + torch.diag(power * wanted / weights), slope)
        share = min(1.0, 0.99 / max(1e-300, float((-step / weights).max())))
        here, promised = value(weights), float(slope @ step)
        # Near the minimum the value's own rounding hides what a step gains: there Newton's step is right as it is.
        while share > 1e-10 and value(weights + share * step) > here + 1e-4 * share * promised + 1e-14 * abs(here):
            share /= 2
        weights = weights + share * step
    return weights
