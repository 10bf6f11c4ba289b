"""IMTL-G: the gradient with equal projections on every task's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.gramian import RANK
from remanent.core.gradient_rules.rule import GradientRule


@dataclass(frozen=True)
class IMTLG(GradientRule):
    """w with sum 1 and <g, g_i> / |g_i| the same for all i: w = v / sum v, A v = the gradients' lengths.

    Weights may be negative. Gradients that depend on each other: the least v. Where sum v is 0: 0.

    Source: Liu et al., Towards Impartial Multi-task Learning (ICLR 2021), gradient balance; without its learnt loss
    scales.
    """

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        lengths = gramian.diagonal().sqrt()
        scale = float(lengths.mean())
        if scale == 0:
            return torch.zeros_like(lengths)
        inverse = torch.linalg.pinv(gramian / scale**2, rtol=RANK * len(gramian), hermitian=True)
        least: Tensor = inverse @ (lengths / scale)
        total = float(least.sum())
        return torch.zeros_like(least) if abs(total) < 1e-12 else least / total
