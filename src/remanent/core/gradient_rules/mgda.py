"""MGDA: the shortest gradient of the tasks' convex hull."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.min_norm import min_norm
from remanent.core.gradient_rules.rule import GradientRule


@dataclass(frozen=True)
class MGDA(GradientRule):
    """w = argmin of |sum w_i g_i| over the simplex; a step against it raises no task's loss, to first order.

    The solver is exact and ends. Where no such step is, the gradient is 0.

    Source: Sener and Koltun, arXiv 1810.04650, equation 3; without their division by norm or loss.
    """

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return min_norm(gramian)
