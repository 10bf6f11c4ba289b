"""SAM: the gradient of the worst point within a radius, taken to first order, in place of the gradient here.

e = rho * g / ||g||, g the gradient at w; the base optimizer steps at w with the gradient at w + e. Adaptive (ASAM):
e = rho * T^2 g / ||T g||, T = |w| + eta elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.optim.two_pass import Perturbation, TwoPass

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
        model: nn.Module | None = None,
        perturbation: Perturbation = "replica",
        same_masks: bool = True,
        max_grad_norm: float | None = None,
        **options: Any,
    ) -> None:
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
