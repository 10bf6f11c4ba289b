"""Nash-MTL: the tasks bargain for the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.fairgrad import fair_weights
from remanent.core.gradient_rules.rule import GradientRule


@dataclass(frozen=True)
class NashMTL(GradientRule):
    """w > 0 with (A w)_i w_i = 1 for all i, A the Gramian: the largest product of the tasks' gains.

    Solved as `FairGrad`, anew in each update. The result's length is sqrt(tasks), however long the gradients are; with
    `normalize` it scales as they do. Where 0 is in the gradients' convex hull there is no bargain, and it is 0.

    Args:
        normalize: solve for A / mean_i A_ii.

    Source: Navon et al., arXiv 2202.01017, equation 2; `normalize` is ours.
    """

    normalize: bool = False

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return fair_weights(gramian, 1.0, self.normalize)
