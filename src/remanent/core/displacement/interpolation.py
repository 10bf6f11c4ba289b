"""A point on the line to another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from remanent.core.displacement.base import Context, Displacement
from remanent.core.tensors import TensorFolder
from remanent.core.weights import Weights
from remanent.errors import InputError


@dataclass(frozen=True, eq=False)
class Interpolation(Displacement):
    """(1 - t) * w + t * other: a path between two models, a merge, or, with t beyond 1 or below 0, task arithmetic.

    Args:
        other: the other model: name -> tensor, or a folder of safetensors, which is read one tensor at a time.
        t: how far to go; 0 is here, 1 is the other model.

    Raises InputError where the other model lacks a weight or its shape differs.
    """

    other: Mapping[str, Tensor] | Path | str
    t: float

    @property
    def local(self) -> bool:
        return True

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        if self.t == 0:
            return
        lookup = self.other if isinstance(self.other, Mapping) else TensorFolder(Path(self.other))
        for name, weight in weights.items():
            there = lookup.get(name)
            if there is None or there.shape != weight.shape:
                found = "nothing of that name" if there is None else f"shape {tuple(there.shape)}"
                raise InputError("other", f"{name}: {found}", f"a tensor of shape {tuple(weight.shape)}")
            # At t = 1 the other point is reached exactly, which lerp's arithmetic would miss by rounding.
            moved = there if self.t == 1 else torch.lerp(weight.float(), there.to(weight.device).float(), self.t)
            weight.copy_(moved)

    def pullback(self, name: str, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient * (1 - self.t)

    def __str__(self) -> str:
        return f"interpolation-{self.t:g}"
