"""PCGrad: each gradient off those that it conflicts with, then their sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.rule import GradientRule
from remanent.core.method import Combine, UpdateView


@dataclass(frozen=True)
class PCGrad(GradientRule):
    """Each g_i in turn off every other g_j that it has a negative inner product with, in a random order; then the sum.

    g_j is the original one. In a method the order follows from `seed` and the number of the update, so that a run that
    is resumed draws the same; of two gradients there is only one order.

    Args:
        seed: of the orders, where no generator is given.

    Source: Yu et al., arXiv 2001.06782, algorithm 1.
    """

    seed: int = 0

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        generator = generator or torch.Generator().manual_seed(self.seed)
        total = torch.zeros(len(gramian), dtype=torch.float64)
        for task in range(len(gramian)):
            parts = torch.zeros_like(total)
            parts[task] = 1.0
            for other in torch.randperm(len(gramian), generator=generator).tolist():
                product, square = float(gramian[other] @ parts), float(gramian[other, other])
                if other != task and product < 0 < square:
                    parts[other] -= product / square
            total += parts
        return total

    def within(self, update: UpdateView) -> Combine:
        """The rule with the orders of one update."""
        return PCGrad(1_000_003 * self.seed + update.step)

    def products(self, step: int, steps: int) -> tuple[str, ...]:
        """None."""
        return ()
