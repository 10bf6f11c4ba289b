"""GSAM: SAM that also narrows the gap between the loss nearby and the loss here.

With g the gradient at w and g_p that at w + e, the base optimizer steps with g_p - alpha * f, where f is the part of g
that is orthogonal to g_p: against it the loss at w rises while that at w + e stays, to first order. The radius follows
the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent
from remanent.core.weights import inner
from remanent.errors import InputError
from remanent.optim.sam import SAM

SYSTEM = System(
    name="gsam",
    title="Surrogate gap guided sharpness-aware minimization",
    year=2022,
    arxiv="2203.08065",
    card="sam-family",
    family="optim",
    reproduction="tests/reproductions/test_sam_family.py",
    notes="The radius stays within its two ends where the learning rate leaves its own. Each group's radius follows "
    "its own learning rate; the published schedule takes the first group's for all.",
)


class GSAM(SAM):
    """Surrogate gap guided SAM round a base optimizer.

    rho_t = rho_min + (rho - rho_min) * (lr_t - lr_min) / (lr_max - lr_min). The inner products are over all weights.
    Memory beyond SAM's: one copy of the gradient.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer. Called with the groups and the rest of `options`.
        rho: radius at the highest learning rate, at least 0.
        alpha: share of the orthogonal part, at least 0; 0 is SAM.
        rho_min: radius at the lowest learning rate, 0 to rho; None keeps rho throughout.
        lr_max: highest learning rate; None is each group's own as first set (its `initial_lr` under a scheduler).
        lr_min: lowest learning rate.
        options: `SAM`'s other options and the base optimizer's.

    Raises InputError for a value out of range.

    Source: arXiv 2203.08065, algorithm 1; github.com/juntang-zhuang/GSAM, a770275.
    """

    keeps_first = True

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        rho: float = 0.05,
        alpha: float = 0.4,
        rho_min: float | None = None,
        lr_max: float | None = None,
        lr_min: float = 0.0,
        **options: Any,
    ) -> None:
        if not alpha >= 0:
            raise InputError("alpha", alpha, "at least 0")
        if rho_min is not None and not 0 <= rho_min <= rho:
            raise InputError("rho_min", rho_min, f"from 0 to rho, {rho}")
        if lr_max is not None and not lr_max > lr_min:
            raise InputError("lr_max", lr_max, f"above lr_min, {lr_min}")
        self.alpha, self.rho_min, self.lr_max, self.lr_min = alpha, rho_min, lr_max, lr_min
        super().__init__(params, base, rho=rho, **options)

    def _ascents(self) -> list[Ascent]:
        return [Ascent(self._radius(g), adaptive=g["adaptive"], eta=g["eta"]) for g in self.param_groups]

    def _radius(self, group: Mapping[str, Any]) -> float:
        rho: float = group["rho"]
        if self.rho_min is None:
            return rho
        highest = group.get("initial_lr", group["lr"]) if self.lr_max is None else self.lr_max
        if highest <= self.lr_min:
            return rho
        share = (group["lr"] - self.lr_min) / (highest - self.lr_min)
        return self.rho_min + (rho - self.rho_min) * min(1.0, max(0.0, float(share)))

    def _combine(self, first: Mapping[str, Tensor] | None, gradients: Mapping[str, Tensor]) -> None:
        if first is None or not gradients:
            return
        both = [name for name in gradients if name in first]
        length = float(inner((gradient, gradient) for gradient in gradients.values()))
        along = float(inner((first[name], gradients[name]) for name in both)) / length if length > 0 else 0.0
        # g_p - alpha * (g - along * g_p)
        torch._foreach_mul_(list(gradients.values()), 1.0 + self.alpha * along)
        torch._foreach_add_([gradients[name] for name in both], [first[name] for name in both], alpha=-self.alpha)
