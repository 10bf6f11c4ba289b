"""UPGrad: the mean of the gradients, each projected so that it conflicts with none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.min_norm import non_negative, root
from remanent.core.gradient_rules.rule import GradientRule


@dataclass(frozen=True)
class UPGrad(GradientRule):
    """The mean over i of g_i projected onto the cone of what has no negative inner product with any g_j.

    Each projection is sum v_j g_j with the least v^T A v over v >= e_i, exactly.

    Source: Quinton and Rey, arXiv 2406.16232, equation 3 and proposition 1.
    """

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        size = len(gramian)
        scale = float(gramian.diagonal().mean())
        own = torch.eye(size, dtype=torch.float64)
        if scale == 0:
            return own.mean(dim=0)
        factor = root(gramian / scale)
        return torch.stack([row + non_negative(factor, -factor @ row) for row in own]).mean(dim=0)
