"""The worst point nearby, to first order: one normalized step up a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights, norm
from remanent.errors import InputError

_TINY = 1e-12


@dataclass(frozen=True)
class Ascent(Displacement):
    """w + rho * g / ||g||, or with `adaptive` w + rho * T^2 g / ||T g||, T = |w| + eta elementwise.

    g is the gradient here of the loss (or of the loss named `of`); its norm is one number over all weights that take
    a gradient, in float32, and over all shards; of several processes each climbs the loss of its own records. The
    step is detached. A gradient of zero moves nothing.

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
        if self.rho < 0:
            raise InputError("rho", self.rho, "a radius of at least 0")
        if self.eta < 0:
            raise InputError("eta", self.eta, "a number of at least 0")

    def moving(self, weights: Weights) -> Weights:
        return weights.trainable()

    def move(self, weights: Weights, context: Context) -> None:
        if self.rho == 0:
            return
        aside = {name: tensor.grad for name, tensor in weights.items()}
        for tensor in weights.values():
            tensor.grad = None
        try:
            with torch.enable_grad():
                for loss in context.losses(self.of):
                    loss().backward()  # type: ignore[no-untyped-call]
            gradients = {name: tensor.grad for name, tensor in weights.items() if tensor.grad is not None}
        finally:
            for name, tensor in weights.items():
                tensor.grad = aside[name]
        self._climb(weights, gradients)

    @torch.no_grad()
    def _climb(self, weights: Weights, gradients: dict[str, Tensor]) -> None:
        scaled = {name: self._scale(weights[name]) * gradient for name, gradient in gradients.items()}
        length = norm(scaled.values())
        if length == 0:
            return
        factor = self.rho / (length + _TINY)
        for name, gradient in scaled.items():
            weight = weights[name]
            weight.add_(self._scale(weight) * gradient * factor.to(weight.device))

    def _scale(self, weight: Tensor) -> Tensor | float:
        return weight.abs() + self.eta if self.adaptive else 1.0

    def __str__(self) -> str:
        return f"ascent-{self.rho:g}" + (f"-{self.of}" if self.of else "") + ("-adaptive" if self.adaptive else "")
