"""F-MTL: flat regions of each task round a gradient rule; gradients and what flatness adds to them are combined apart.

For each task k, with its own radius in the shared weights and in its head: g_k the gradient here, gS_k the one at the
worst point nearby, f_k = gS_k - g_k. Shared weights step with rule(g) + rule(f), head k with its part of gS_k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.combine import add_in
from remanent.core.gradient_rules import GradientRule
from remanent.core.weights import norm
from remanent.optim.multi_task import Gradients, MultiTask, Passes

SYSTEM = System(
    name="fmtl",
    title="F-MTL: per-task flat regions round any gradient rule",
    year=2022,
    arxiv="2211.13723",
    card="mtl-flat",
    family="optim",
    reproduction="tests/reproductions/test_multi_task.py",
    notes="The radii of the paper's tables are not published; ours are 0.05. Its direct aggregation, which it finds "
    "worse, is SAMO with beta 1, exact gradients and no match of norms.",
)


class FMTL(MultiTask):
    """Per-task sharpness-aware steps round a gradient rule and a base optimizer.

    `step({task: closure})` runs each closure at w and at the task's own w + e_k; closures return losses and leave
    backward to it. Both passes of a task draw the same random numbers; batch norm's running statistics are those of the
    first passes. Weights come back by copy, bit for bit, also when a closure raises. A step whose gradient is not
    finite, at any point, moves nothing and is counted in `skipped`. A rho of 0 is the rule alone, bit for bit, in one
    pass per task. Memory beyond the base optimizer's: a gradient of the shared weights for each task, two more, and a
    copy of what moves; round `LinearScalarization`, with a radius above 0, two gradients
    and that copy, however many tasks have a closure.

    Args:
        params: parameters, or groups of them. A group with a `task` is that task's head, with a norm of its own; the
            rest is shared.
        base: makes the base optimizer: `torch.optim.AdamW`, for example. Called with the groups and `options`.
        rule: combines the tasks' gradients of the shared weights, and apart from them their differences f_k.
        rho: radius, at least 0; each group may have its own.
        adaptive: measure the radius relative to the weights, as `ASAM` does.
        eta: added to |w| when adaptive, at least 0.
        model: the model, under DistributedDataParallel the wrapped one; with it batch norm's running statistics are
            left alone by the second passes.
        max_grad_norm: clips the L2 norm of the whole gradient that the base steps with; None does not clip.
        seed: of rules that draw.
        options: of the base optimizer.

    Raises InputError for a value out of range, UnsupportedError for sharded weights.

    Source: Phan et al., arXiv 2211.13723, algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        rule: GradientRule,
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.0,
        model: nn.Module | None = None,
        max_grad_norm: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            base,
            rule,
            {"rho": rho, "adaptive": adaptive, "eta": eta},
            model=model,
            max_grad_norm=max_grad_norm,
            seed=seed,
            options=options,
        )

    def _gradients(self, passes: Passes) -> Gradients:
        if self.rule.adds_up and passes.apart and self._plan() != "here":
            return self._added_up(passes)
        generator = self._generator("rule")
        shared, heads = passes.here()
        total = self.rule.combined(list(shared.values()), generator)
        own = {name: gradient for head in heads.values() for name, gradient in head.items()}
        first = math.isfinite(float(norm([*total.values(), *own.values()])))
        if self._plan() == "here" or not first:
            return total | own
        with self._displaceable(passes.weights, {**total, **own}) as home, torch.no_grad():
            for task in passes.tasks:
                self._climb(passes.weights, shared[task])
                self._climb(passes.weights, heads[task])
                there, own_there = passes.there(task)
                home()
                own |= own_there
                shared[task] = _difference(there, shared[task])
        flat = self.rule.combined(list(shared.values()), generator)
        for name, gradient in flat.items():
            total[name] = total[name].add_(gradient) if name in total else gradient
        return total | own

    def _added_up(self, passes: Passes) -> Gradients:
        """The sum of all gS_k: rule(g) + rule(f) of a rule that adds up. No task's gradients wait for another's."""
        total: Gradients = {}
        for task in passes.apart:
            shared, head = passes.one_here(task)
            climbs = any(self._radius(name) > 0 for name in shared | head)
            if climbs and math.isfinite(float(norm([*shared.values(), *head.values()]))):
                with self._displaceable(passes.weights, {**shared, **head}), torch.no_grad():
                    self._climb(passes.weights, shared)
                    self._climb(passes.weights, head)
                    shared, head = passes.there(task)
            add_in(total, shared | head)
        return total


def _difference(there: Gradients, here: Gradients) -> Gradients:
    """There - here, in place of the former; a weight without a gradient counts as 0."""
    both = [name for name in there if name in here]
    if both:
        torch._foreach_sub_([there[name] for name in both], [here[name] for name in both])
    return there | {name: -gradient for name, gradient in here.items() if name not in there}
