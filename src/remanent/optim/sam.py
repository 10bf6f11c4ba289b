"""SAM: the gradient of the worst point within a radius, taken to first order, in place of the gradient here.

e = rho * g / ||g||, g the gradient at w; the base optimizer steps at w with the gradient at w + e. Adaptive (ASAM):
e = rho * T^2 g / ||T g||, T = |w| + eta elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.optim.two_pass import Passes, Perturbation, TwoPass, group_of

SYSTEM = System(
    name="sam",
    title="Sharpness-aware minimization, also adaptive (ASAM), round any base optimizer",
    year=2020,
    arxiv="2010.01412",
    card="sam-family",
    family="optim",
    reproduction="tests/reproductions/test_sam.py",
    notes="e follows from the loss alone, without the weight decay that JAX's SAM adds to it; T is |w| + eta for "
    "every weight, biases too.",
)


class SAM(TwoPass):
    """Sharpness-aware minimization round a base optimizer.

    `step(closure)` runs the closure at w and at w + e. e is detached; the gradient's norm is one number, in at least
    float32, over every weight that has a gradient, in all groups. Weights come back by copy, bit for bit, also when
    the closure raises. A step whose gradient is not finite, at either point, moves nothing and is counted in `skipped`.
    A rho of 0 is the base optimizer, in one pass. Memory beyond the base optimizer's: one copy of what moves.

    Param groups, `state` and `state_dict` are the base optimizer's, each group with its own `rho`, `adaptive` and
    `eta`, so schedulers and checkpoints work as they do for the base.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer: `torch.optim.AdamW`, for example. Called with the groups and `options`.
        rho: radius, at least 0.
        adaptive: measure the radius relative to the weights (ASAM).
        eta: added to |w| when adaptive, at least 0.
        every: a step climbs, and takes two passes, once in so many; at least 1.
        between: what the other steps do, in one pass each. "base": the base optimizer's step, with the gradient at w.
            "reuse": climb the last direction again, at the cost of one more copy of what moves; the loss returned is
            then that at w + e. Under "replica" each process keeps a direction of its own, which a checkpoint that one
            process writes does not hold for the others.
        model: the model. With it, batch norm's running statistics are those of the first pass alone. Under
            DistributedDataParallel, the wrapped model.
        perturbation: "replica": under DistributedDataParallel each process climbs the loss of its own records, without
            synchronizing gradients in the first pass. "global": all climb the mean loss. Sharded weights are global.
        same_masks: both passes of `step` draw the same random numbers, such as dropout's masks.
        max_grad_norm: clips the L2 norm of the second gradient; None does not clip.
        options: of the base optimizer.

    Raises InputError for a value out of range.

    Source: arXiv 2010.01412, equations 2 and 3; ASAM, arXiv 2102.11600, equation 5.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.0,
        every: int = 1,
        between: Literal["base", "reuse"] = "base",
        model: nn.Module | None = None,
        perturbation: Perturbation = "replica",
        same_masks: bool = True,
        max_grad_norm: float | None = None,
        **options: Any,
    ) -> None:
        if every < 1:
            raise InputError("every", every, "at least 1")
        if between not in ("base", "reuse"):
            raise InputError("between", between, "'base' or 'reuse'")
        self.every, self.between = every, between
        super().__init__(
            params,
            base,
            {"rho": rho, "adaptive": adaptive, "eta": eta},
            model=model,
            perturbation=perturbation,
            same_masks=same_masks,
            max_grad_norm=max_grad_norm,
            options=options,
        )

    def _plan(self) -> Passes:
        plan = super()._plan()
        if plan == "here" or self.updates % self.every == 0:
            return plan
        if self.between == "base":
            return "here"
        return "there" if self.kept else "both"

    def _moving(self, weights: Weights, gradients: Mapping[str, Tensor]) -> list[str]:
        return super()._moving(weights, self.kept if self._plan() == "there" else gradients)

    def _displace(self, weights: Weights, gradients: Mapping[str, Tensor]) -> float:
        ascents = self._ascents()
        if self._plan() == "there":
            for number, ascent in enumerate(ascents):
                names = [name for name in self._moving(weights, gradients) if group_of(name) == number]
                if names:
                    directions = [self.kept[name] for name in names]
                    torch._foreach_add_([weights[name] for name in names], directions, alpha=ascent.rho)
            return 0.0
        length = super()._displace(weights, gradients)
        if self.every > 1 and self.between == "reuse" and 0 < length < math.inf:
            assert self._displaced is not None  # first_step has seen to it
            self.kept = {}
            for name, gradient in gradients.items():
                here, scale = self._displaced.weight(name), ascents[group_of(name)].scale
                self.kept[name] = scale(here, scale(here, gradient)) / length
        return length
