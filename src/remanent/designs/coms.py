"""Conservative objective models: a surrogate that is trained not to promise more where a search would end.

loss = mean (h(x) - y)^2 + alpha (h(x') - h(x)), x' after gradient ascent from x; alpha by dual ascent towards a limit
of the overestimation h(x') - h(x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Adam

from remanent.designs.gradient_ascent import ascend
from remanent.designs.problem import Problem
from remanent.designs.surrogate import Loss, Recipe, Surrogate, Surrogates
from remanent.errors import InputError


@dataclass(frozen=True)
class COMs:
    """Conservative objective models, and the same ascent as the search.

    Args:
        recipe: of the surrogate.
        steps: of the ascent, in training and in the search.
        step_size: before it is scaled by the root of the number of inputs.
        alpha: weight of the overestimation at the start, above 0.
        alpha_rate: learning rate, by Adam, of log alpha.
        limit: overestimation at which alpha rests, in standard deviations of the score.

    Source: Trabucco et al., Conservative Objective Models, ICML 2021; settings of cuong-dm/IGNITE, which trains for 2
    epochs in its scripts and 50 by default.
    """

    recipe: Recipe = field(default_factory=lambda: Recipe(activation="relu", gaussian=False, epochs=50))
    steps: int = 50
    step_size: float = 0.05
    alpha: float = 0.1
    alpha_rate: float = 0.01
    limit: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise InputError("alpha", self.alpha, "a finite number above 0, since its logarithm is learnt")

    def loss(self, generator: torch.Generator) -> Loss:
        """The conservative loss, with an alpha of its own."""
        return ConservativeLoss(self)

    def search(self, members: Sequence[Surrogate], problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Inputs of the designs found: (count, inputs)."""
        return ascend(Surrogates(members), problem.best(count), self.steps, self.step_size)


class ConservativeLoss:
    """The loss of one surrogate, and its alpha.

    Args:
        settings: steps, step_size, alpha, alpha_rate and limit.
    """

    def __init__(self, settings: COMs) -> None:
        self.settings = settings
        self.log_alpha = torch.tensor(math.log(settings.alpha), requires_grad=True)
        self._dual = Adam([self.log_alpha], lr=settings.alpha_rate, eps=1e-7)

    def __call__(self, surrogate: Surrogate, inputs: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
        """The loss of a batch, whose backward pass is run; then alpha's own step."""
        climbed = ascend(surrogate, inputs, self.settings.steps, self.settings.step_size)
        predicted = surrogate(inputs)
        overestimation = surrogate(climbed) - predicted
        alpha = self.log_alpha.exp()
        losses = (predicted - scores) ** 2 + alpha.detach() * overestimation
        loss: Tensor = (weights * losses).sum() / weights.sum().clamp(min=1)
        loss.backward()  # type: ignore[no-untyped-call]
        self._dual.zero_grad()
        dual: Tensor = alpha * (self.settings.limit - overestimation.detach().mean())
        dual.backward()  # type: ignore[no-untyped-call]
        self._dual.step()
        return loss
