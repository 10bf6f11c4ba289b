"""Aligned-MTL: gradients made orthogonal and of one length, then added up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.core.gradient_rules.gramian import RANK
from remanent.core.gradient_rules.rule import GradientRule


@dataclass(frozen=True)
class AlignedMTL(GradientRule):
    """w = sqrt(least) A^(-1/2) 1: the nearest orthogonal gradients, as long as A's least eigenvalue has them, summed.

    A is the Gramian; eigenvalues that rounding does not tell from 0 are left out.

    Source: Senushkin et al., arXiv 2305.19000, algorithm 1, equal preferences of 1.
    """

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        values, vectors = torch.linalg.eigh(gramian)
        kept = values > values[-1] * len(gramian) * RANK
        if not kept.any():
            return torch.ones(len(gramian), dtype=torch.float64)
        values, vectors = values[kept], vectors[:, kept]
        total: Tensor = vectors @ ((values[0] / values).sqrt() * vectors.sum(dim=0))
        return total
