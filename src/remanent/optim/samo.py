"""SAMO: the worst point of each task along a mix of all tasks' mean gradient and a cheap estimate of the task's own.

g0 is the gradient of the mean loss, h_k an estimate of task k's, both of the shared weights. In each tensor d

    p_kd = (1 - beta) g0_d + beta ||g0_d|| h_kd / ||h_kd||
    e_k  = rho p_k / ||p_k||,   one norm over all shared weights

and the rule combines the gradients of each task at w + e_k. G-SAM (beta 0) and L-SAM (beta 1, exact gradients, norms as
they are) are values of its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.combine import add_in
from remanent.core.gradient_rules import GradientRule
from remanent.core.gradient_rules.gramian import weighted_sum
from remanent.core.modes import evaluating
from remanent.core.weights import norm
from remanent.errors import InputError
from remanent.optim.multi_task import Gradients, MultiTask, Passes

SYSTEM = System(
    name="samo",
    title="SAMO: sharpness-aware multi-task steps along a joint global and local perturbation",
    year=2025,
    arxiv="2507.07883",
    card="samo",
    family="optim",
    reproduction="tests/reproductions/test_multi_task.py",
    notes="The rule's gradient is not multiplied by the number of tasks, and clipping is off. One random sample is "
    "next to orthogonal to the task's gradient, whatever the task: the control is a random direction in its place.",
)

Estimator = Literal["spsa", "exact", "random"]


class SAMO(MultiTask):
    """Sharpness-aware multi-task steps round a gradient rule and a base optimizer.

    `step({task: closure})`, or `step(closure)` with one that returns {task: loss} in one forward pass, which the first
    pass then shares; closures return losses and leave backward to it. A task's passes draw the same random numbers;
    batch norm's running statistics are those of the first pass. Weights come back by copy, bit for bit, also when a
    closure raises. A step whose gradient is not finite, at any point, moves nothing and is counted in `skipped`. A rho
    of 0 is the rule alone, bit for bit, in one pass per task. Memory beyond the base optimizer's: a gradient of the
    shared weights for each task, two more, and a copy of what moves; round `LinearScalarization`, with a radius above 0
    and no exact gradients, four gradients and that copy, however many tasks there are.

    Args:
        params: parameters, or groups of them. A group with a `task` is that task's head, which climbs its own gradient
            by a norm of its own; the rest is shared.
        base: makes the base optimizer: `torch.optim.Adam`, for example. Called with the groups and `options`.
        rule: combines the tasks' gradients of the shared weights.
        rho: radius, at least 0; each group may have its own.
        beta: share of the local part, from 0 to 1.
        estimator: of the local part. "spsa": s z, z standard normal, s the loss's central difference along z, from two
            forward passes; "exact": the gradient, from a forward and a backward pass per task in place of the mean
            loss's; "random": z alone, the control that shows what the difference is worth.
        samples: draws of z that "spsa" is the mean of, at least 1; other estimators take no other value.
        difference: mu, the step of the central difference, above 0; other estimators take no other value.
        match_norms: give the local part of each tensor the length of the global one; where it is 0, or not finite,
            the global one is left alone.
        shared_draws: draw one z for all tasks; a closure that returns all losses is then passed forward twice for each
            sample, and not twice for each task and sample. The estimates of the tasks lie along one line.
        local_in_eval: take the differences in eval mode, which needs `model`; otherwise in the model's own, with the
            masks of its first pass. None is eval mode where there is a `model`. Running statistics are kept either way.
        adaptive: measure the radius relative to the weights, as `ASAM` does.
        eta: added to |w| when adaptive, at least 0.
        model: the model, under DistributedDataParallel the wrapped one; with it batch norm's running statistics are
            left alone by all but the first passes.
        max_grad_norm: clips the L2 norm of the whole gradient that the base steps with; None does not clip.
        seed: of z, and of rules that draw.
        options: of the base optimizer.

    Raises InputError for a value out of range, UnsupportedError for sharded weights.

    Source: arXiv 2507.07883; defaults from its code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        rule: GradientRule,
        *,
        rho: float = 0.001,
        beta: float = 0.5,
        estimator: Estimator = "spsa",
        samples: int = 1,
        difference: float = 0.01,
        match_norms: bool = True,
        shared_draws: bool = False,
        local_in_eval: bool | None = None,
        adaptive: bool = False,
        eta: float = 0.0,
        model: nn.Module | None = None,
        max_grad_norm: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        for name, value, right, expected in (
            ("beta", beta, 0 <= beta <= 1, "a share from 0 to 1"),
            ("estimator", estimator, estimator in get_args(Estimator), "'spsa', 'exact' or 'random'"),
            ("samples", samples, samples >= 1, "at least 1"),
            ("difference", difference, 0 < difference < math.inf, "a finite number above 0"),
            ("samples", samples, samples == 1 or estimator == "spsa", f"1: '{estimator}' takes no mean of draws"),
            ("difference", difference, difference == 0.01 or estimator == "spsa", f"0.01: '{estimator}' takes none"),
            ("local_in_eval", local_in_eval, not local_in_eval or model is not None, "no True without a `model`"),
        ):
            if not right:
                raise InputError(name, value, expected)
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
        self.beta, self.estimator, self.samples, self.difference = beta, estimator, samples, difference
        self.match_norms, self.shared_draws = match_norms, shared_draws
        self.local_in_eval = model is not None if local_in_eval is None else local_in_eval
        self._slopes: dict[int, dict[str, float]] = {}  # of a step: sample -> task -> s

    def _gradients(self, passes: Passes) -> Gradients:
        if self._plan() == "here":
            tasks, heads = passes.here()
            return self.rule.combined(list(tasks.values()), self._generator("rule")) | _together(heads.values())
        self._slopes = {}
        locals_: dict[str, Gradients] = {}
        if self.estimator == "exact" and self.beta > 0:
            locals_, heads = passes.here()
            own = _together(heads.values())
            mean = weighted_sum(list(locals_.values()), torch.full((len(locals_),), 1 / len(locals_)))
        else:
            mean, own = passes.mean_here()
        if not math.isfinite(float(norm([*mean.values(), *own.values()]))):
            return mean | own
        found: list[Gradients] = []
        with self._displaceable(passes.weights, {**mean, **own}) as home, torch.no_grad():
            for task in passes.tasks:
                # Nothing holds the direction, which is as large as the shared weights, while the pass runs.
                self._climb(passes.weights, self._direction(passes, task, mean, locals_, home))
                self._climb(passes.weights, {n: part for n, part in own.items() if passes.heads[n] == task})
                shared, head = passes.there(task)
                home()
                if self.rule.adds_up and found:
                    add_in(found[0], shared)
                else:
                    found.append(shared)
                own |= head
        return self.rule.combined(found, self._generator("rule")) | own

    def _direction(
        self,
        passes: Passes,
        task: str,
        mean: Gradients,
        exact: dict[str, Gradients],
        home: Callable[[], None],
    ) -> Gradients:
        """p_k. Takes the task out of `exact`."""
        if self.beta == 0:
            return mean
        if self.estimator == "exact":
            return mix(mean, exact.pop(task), self.beta, self.match_norms)
        moved = {name: part for name, part in mean.items() if self._radius(name) > 0}
        if not moved:  # heads climb alone
            return mean
        return mix(mean, self._estimate(passes, task, moved, home), self.beta, self.match_norms)

    def _estimate(self, passes: Passes, task: str, like: Gradients, home: Callable[[], None]) -> Gradients:
        """h_k, of the weights that `like` has."""
        total: Gradients = {}
        for sample in range(1 if self.estimator == "random" else self.samples):
            drawn = self._draw(task, sample, like)
            if self.estimator == "random":
                return drawn
            if sample not in self._slopes:
                asked = passes.tasks if self.shared_draws else [task]
                self._slopes[sample] = self._looked(passes, asked, drawn, home)
            known = self._slopes[sample] if self.shared_draws else self._slopes.pop(sample)
            torch._foreach_mul_(list(drawn.values()), known[task] / self.samples)
            if total:
                torch._foreach_add_(list(total.values()), list(drawn.values()))
            else:
                total = drawn
        return total

    def _draw(self, task: str, sample: int, like: Gradients) -> Gradients:
        """z: the same for the same update, task and sample, so that it need not be kept."""
        what = (sample,) if self.shared_draws else (task, sample)
        devices = {part.device for part in like.values()}
        generators = {device: self._generator(*what, device=device) for device in devices}
        return {name: torch.empty_like(part).normal_(generator=generators[part.device]) for name, part in like.items()}

    def _looked(self, passes: Passes, tasks: list[str], drawn: Gradients, home: Callable[[], None]) -> dict[str, float]:
        """s of those tasks, along z."""
        tensors, noise, losses = [passes.weights[name] for name in drawn], list(drawn.values()), []
        with nullcontext() if self.model is None or not self.local_in_eval else evaluating(self.model):
            for step in (self.difference, -2 * self.difference):
                torch._foreach_add_(tensors, noise, alpha=step)
                torch.clear_autocast_cache()
                losses.append(passes.look(tasks))
            home()
        return self._mean({task: (losses[0][task] - losses[1][task]) / (2 * self.difference) for task in tasks})


def mix(globally: Gradients, locally: Gradients, beta: float, match_norms: bool) -> Gradients:
    """(1 - beta) g + beta h, tensor by tensor. Where norms are matched: h as long as g; g where h is 0 or not finite.

    Writes over h.

    Args:
        globally: g.
        locally: h; a weight that it leaves out counts as 0.
        beta: from 0 to 1.
        match_norms: whether lengths are matched.
    """
    mixed: Gradients = {}
    shared = [name for name in globally if name in locally]
    factors = [beta] * len(shared)
    if match_norms and shared:
        norms = [torch._foreach_norm([part[name] for name in shared]) for part in (globally, locally)]
        lengths = [torch.stack([length.to(some[0].device) for length in some]) for some in norms]
        factors = [
            beta * length / local if local > 0 else 0.0
            for length, local in zip(*(part.tolist() for part in lengths), strict=True)
        ]
    scale = dict(zip(shared, factors, strict=True))
    for name, part in globally.items():
        local, factor = locally.get(name), scale.get(name, 0.0)
        if local is None or factor == 0:
            mixed[name] = part if match_norms else part * (1 - beta)
        else:
            mixed[name] = local.mul_(factor).add_(part, alpha=1 - beta)
    return mixed


def _together(heads: Iterable[Gradients]) -> dict[str, Tensor]:
    return {name: gradient for head in heads for name, gradient in head.items()}
