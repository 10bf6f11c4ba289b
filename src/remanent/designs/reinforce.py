"""REINFORCE: a distribution over designs is moved to where the surrogates promise more, and sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from remanent.designs.problem import Problem
from remanent.designs.surrogate import Loss, Recipe, Surrogate, Surrogates, own_loss

BOOTSTRAPS = Recipe(hidden=(256,), members=5, bootstrap=True, batch_size=100, learning_rate=1e-3)
_LEAST = 1e-6  # of a category that none of the best designs has, so that its logit is a number


@dataclass(frozen=True)
class REINFORCE:
    """An independent Gaussian for each number and a categorical for each category, moved by the policy gradient.

    They start at the mean of the best designs; the Gaussians' widths stay. Rewards are the mean predictions,
    standardized in each batch.

    Args:
        recipe: of the surrogates.
        deviation: of the Gaussians, in standard deviations of the input.
        rate: learning rate, by Adam.
        batch_size: designs drawn for each step.
        steps: of the distribution.

    Source: settings of cuong-dm/IGNITE, reinforce_IGNITE; there categories are embedded, and 256 are drawn.
    """

    recipe: Recipe = BOOTSTRAPS
    deviation: float = 0.1
    rate: float = 0.01
    batch_size: int = 2048
    steps: int = 200

    def loss(self, generator: torch.Generator) -> Loss:
        """The surrogate's own."""
        return own_loss(self.recipe)

    def search(self, members: Sequence[Surrogate], problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Inputs of the designs found: (count, inputs)."""
        predict = Surrogates(members)
        middle = problem.best(count).mean(dim=0)
        mean = middle.clone().requires_grad_()
        logits = [middle[block].clamp(min=_LEAST).log().requires_grad_() for block in problem.blocks]
        optimizer = Adam([mean, *logits], lr=self.rate, eps=1e-7)
        in_blocks = torch.zeros(len(middle), dtype=torch.bool)
        for block in problem.blocks:
            in_blocks[block] = True

        def draw(number: int) -> tuple[Tensor, Tensor]:
            """Designs, and the log-probability of each, with its graph."""
            noise = torch.randn((number, len(middle)), generator=generator)
            inputs = (mean + self.deviation * noise).detach()
            scaled = (inputs - mean) / self.deviation
            log = (-0.5 * scaled**2 - math.log(self.deviation) - 0.5 * math.log(2 * math.pi))[:, ~in_blocks].sum(dim=1)
            for block, part in zip(problem.blocks, logits, strict=True):
                chosen = torch.multinomial(part.detach().softmax(dim=0), number, True, generator=generator)
                inputs[:, block] = torch.nn.functional.one_hot(chosen, len(part)).float()
                log = log + part.log_softmax(dim=0)[chosen]
            return inputs, log

        for _ in range(self.steps):
            inputs, log = draw(self.batch_size)
            with torch.no_grad():
                rewards = predict(inputs)
                rewards = (rewards - rewards.mean()) / rewards.std(correction=0).clamp(min=1e-12)
            optimizer.zero_grad()
            (-(log * rewards).mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return draw(count)[0]
