"""Weights put back to values that were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights
from remanent.errors import InputError


@dataclass(frozen=True, eq=False)
class Restored(Displacement):
    """The model with some of its weights as they were; those that were not kept stay.

    Args:
        kept: name of the weight -> its value then. Read when the point is entered, so that it may grow meanwhile.

    Raises InputError where a kept weight is not in the model or has another shape.
    """

    kept: Mapping[str, Tensor]

    @property
    def local(self) -> bool:
        return True

    def moving(self, weights: Weights) -> Weights:
        for name, value in self.kept.items():
            if name not in weights or weights[name].shape != value.shape:
                found = f"{name} of shape {tuple(value.shape)}"
                raise InputError("kept", found, "the model's own weights, of their shapes")
        return weights.only(self.kept)

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        for name, weight in weights.items():
            weight.copy_(self.kept[name])

    def pullback(self, name: str, gradient: Tensor, weight: Tensor) -> Tensor:
        return torch.zeros_like(gradient)  # where it is does not depend on where the weight is

    def __str__(self) -> str:
        return "restored"
