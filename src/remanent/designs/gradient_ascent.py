"""Gradient ascent: from the best known designs, up the surrogate's mean prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from remanent.designs.problem import Problem
from remanent.designs.surrogate import Loss, Recipe, Surrogate, Surrogates, own_loss

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GradientAscent:
    """x <- x + step_size * sqrt(inputs) * grad of the prediction at x, `steps` times.

    Args:
        recipe: of the surrogates; several make an ensemble.
        steps: of the ascent.
        step_size: before it is scaled by the root of the number of inputs, above 0.
        pessimistic: of several surrogates climb the smallest prediction, not the mean.

    Source: arXiv 2503.04242, section 5; the released code's "mean" ensemble climbs the smallest prediction too.
    """

    recipe: Recipe = field(default_factory=Recipe)
    steps: int = 200
    step_size: float = 0.01
    pessimistic: bool = False

    def loss(self, generator: torch.Generator) -> Loss:
        """The surrogate's own."""
        return own_loss(self.recipe)

    def search(self, members: Sequence[Surrogate], problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Inputs of the designs found: (count, inputs)."""
        predict = Surrogates(members, pessimistic=self.pessimistic)
        return ascend(predict, problem.best(count), self.steps, self.step_size)


def ascend(predict: Predict, starts: Tensor, steps: int, step_size: float) -> Tensor:
    """Climb a prediction from each start by itself; the result has no graph.

    Args:
        predict: (designs, inputs) -> (designs,), each from its own design alone.
        starts: (designs, inputs).
        steps: of the ascent.
        step_size: is multiplied by the root of the number of inputs.
    """
    inputs = starts.detach().clone()
    for _ in range(steps):
        inputs.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(predict(inputs).sum(), inputs)
        inputs = inputs.detach().add_(gradient, alpha=step_size * math.sqrt(starts.shape[1]))
    return inputs
