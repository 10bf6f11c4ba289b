"""Linear scalarization: the gradients added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from remanent.core.gradient_rules.rule import GradientRule


@dataclass(frozen=True)
class LinearScalarization(GradientRule):
    """w = 1: the gradient of the losses' sum."""

    adds_up: ClassVar[bool] = True

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(len(gramian), dtype=torch.float64)
