"""Weights scaled down, each by a factor of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights
from remanent.errors import InputError


@dataclass(frozen=True, eq=False)
class Dampening(Displacement):
    """factor * w, elementwise; weights that have no factors stay.

    Args:
        factors: name of the weight -> factors, of its shape.

    Raises InputError where a factor's weight is not in the model or has another shape.
    """

    factors: Mapping[str, Tensor]

    @property
    def local(self) -> bool:
        return True

    def moving(self, weights: Weights) -> Weights:
        for name, factor in self.factors.items():
            if name not in weights or weights[name].shape != factor.shape:
                found = f"a factor of shape {tuple(factor.shape)} for {name}"
                raise InputError("factors", found, "factors of the model's own weights, of their shapes")
        return weights.only(self.factors)

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        for name, weight in weights.items():
            # One product in float32, rounded once, also of 16-bit weights.
            weight.copy_(weight * self.factors[name].to(weight.device))

    def pullback(self, name: str, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient * self.factors[name].to(gradient.device, gradient.dtype)

    def __str__(self) -> str:
        return "dampening"
