"""LookSAM: SAM's second pass once in k steps; between them, the part of it that changes slowly is used again.

On every k-th step, with g the gradient at w and g_s that at w + e, g_v is the part of g_s that is orthogonal to g. The
other steps take one pass, and the base optimizer steps with g + alpha * ||g|| * g_v / ||g_v||.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.weights import inner, norm
from remanent.errors import InputError
from remanent.optim.sam import SAM

SYSTEM = System(
    name="look-sam",
    title="SAM whose second pass is taken once in k steps and used again between them",
    year=2022,
    arxiv="2203.02714",
    card="sam-family",
    family="optim",
    reproduction="tests/reproductions/test_sam_family.py",
    notes="Norms and inner products are over all weights, not over each tensor. The official repository has no code.",
)


class LookSAM(SAM):
    """LookSAM round a base optimizer.

    Memory beyond SAM's: one copy of what moves, kept between the steps and in `state_dict`.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer. Called with the groups and the rest of `options`.
        rho: radius, at least 0.
        alpha: share of the kept direction, in lengths of the gradient, at least 0.
        every: k: two passes once in so many steps, at least 1; 1 is SAM.
        options: `SAM`'s other options, but not `between`, and the base optimizer's.

    Raises InputError for a value out of range.

    Source: arXiv 2203.02714, algorithm 1.
    """

    keeps_first = True

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        rho: float = 0.05,
        alpha: float = 0.7,
        every: int = 5,
        **options: Any,
    ) -> None:
        if not alpha >= 0:
            raise InputError("alpha", alpha, "at least 0")
        if "between" in options:
            raise InputError("between", options["between"], "left out: LookSAM says what its other steps do")
        self.alpha = alpha
        super().__init__(params, base, rho=rho, every=every, **options)

    def _combine(self, first: Mapping[str, Tensor] | None, gradients: Mapping[str, Tensor]) -> None:
        if first is not None:
            self._keep(first, gradients)
        elif self.kept and self.updates % self.every and any(ascent.rho > 0 for ascent in self._ascents()):
            names = [name for name in gradients if name in self.kept]
            factor = self.alpha * float(norm(list(gradients.values())))
            kept = [self.kept[name] for name in names]
            torch._foreach_add_([gradients[name] for name in names], kept, alpha=factor)

    def _keep(self, first: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Make g_v / ||g_v|| in the place of g, the same in every process."""
        both = [name for name in first if name in gradients]
        length = float(inner((gradient, gradient) for gradient in first.values()))
        along = float(inner((first[name], gradients[name]) for name in both)) / length if length > 0 else 0.0
        rest = [first[name] for name in both]
        torch._foreach_mul_(rest, -along)
        torch._foreach_add_(rest, [gradients[name] for name in both])
        if self.perturbation == "replica":
            self._average(rest)
        size = float(norm(rest))
        if size > 0 and math.isfinite(size):
            torch._foreach_mul_(rest, 1.0 / size)
            self.kept = dict(zip(both, rest, strict=True))
