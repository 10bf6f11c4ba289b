"""RoMA: a surrogate trained at its worst weights nearby, and made smooth at each candidate while it is searched.

Training: the gradient of the likelihood where the weights have made it a little worse. Search, at each update: from the
trained weights, descend mean ||grad_x h(x)|| + alpha * NLL(y | x), y what was predicted of x before; then a step of x
up h(x) - (h(x) - h0)^2 / (2 region), h0 the trained surrogate's prediction of where x started.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Adam

from remanent.core.state import State
from remanent.core.weights import Weights
from remanent.designs.problem import Problem
from remanent.designs.surrogate import Loss, Recipe, Surrogate, gaussian_nll, log_losses
from remanent.errors import InputError

_SEARCH_STEPS = 5  # times those of training
_TINY = 1e-6


@dataclass(frozen=True)
class RoMA:
    """Robust model adaptation.

    Args:
        recipe: of the surrogate; its activation must be smooth.
        noise: standard deviation of what is added to the inputs in training.
        inner_steps: of the weights, for each batch in training; five times as many for each update of the search.
        inner_rate: how far those steps go in all, relative to each tensor's norm.
        updates: of the designs.
        rate: learning rate, by Adam, of the designs.
        region: how freely predictions may leave those of where the search started, above 0.
        alpha: weight of the likelihood in the search.

    Source: Yu et al., arXiv 2110.14188; code sihyun-yu/RoMA, commit 08b1ab5, settings of its superconductor task.
    """

    recipe: Recipe = field(
        default_factory=lambda: Recipe(hidden=(64, 64), activation="softplus", epochs=50, learning_rate=1e-3)
    )
    noise: float = 0.2
    inner_steps: int = 20
    inner_rate: float = 5e-4
    updates: int = 500
    rate: float = 3e-3
    region: float = 4.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.recipe.members != 1 or not self.recipe.gaussian:
            raise InputError("recipe", self.recipe, "one Gaussian surrogate, which the search adapts")

    def loss(self, generator: torch.Generator) -> Loss:
        """The likelihood at the worst weights nearby; each weight's gradient is clipped to norm 1."""

        def at_the_worst(surrogate: Surrogate, inputs: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
            inputs = inputs + self.noise * torch.randn(inputs.shape, generator=generator)
            moving = Weights.of(surrogate)
            original = {name: weight.detach().clone() for name, weight in moving.items()}
            with State.of(moving, moved=moving, gradients_aside=False, learning=True):
                for _ in range(self.inner_steps):
                    gaussian_nll(surrogate, inputs, scores, weights)
                    _move(moving, original, self.inner_rate / self.inner_steps)
                    surrogate.zero_grad()
                loss = gaussian_nll(surrogate, inputs, scores, weights)
            for weight in moving.values():
                nn.utils.clip_grad_norm_([weight], 1.0)
            return loss

        return at_the_worst

    def search(self, members: Sequence[Surrogate], problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Inputs of the designs found: (count, inputs)."""
        (trained,) = members
        starts = problem.best(count)
        inputs = starts.clone().requires_grad_()
        optimizer = Adam([inputs], lr=self.rate, eps=1e-7)
        with torch.no_grad():
            known = anchor = trained(starts)
        for _ in range(self.updates):
            adapted = self._adapted(trained, inputs, known)
            mean = adapted(inputs)
            (inputs.grad,) = torch.autograd.grad(((mean - anchor) ** 2 / (2 * self.region) - mean).sum(), inputs)
            optimizer.step()
            with torch.no_grad():
                known = adapted(inputs)
        return inputs.detach()

    def _adapted(self, trained: Surrogate, inputs: Tensor, known: Tensor) -> Surrogate:
        adapted, steps = copy.deepcopy(trained), _SEARCH_STEPS * self.inner_steps
        moving, original = Weights.of(adapted), Weights.of(trained)
        for _ in range(steps):
            (slope,) = torch.autograd.grad(adapted(inputs).sum(), inputs, create_graph=True)
            loss = slope.norm(dim=1).mean() + self.alpha * log_losses(adapted, inputs, known).mean()
            adapted.zero_grad()
            loss.backward(inputs=list(moving.values()))
            _move(moving, original, -self.inner_rate / steps)
        return adapted


@torch.no_grad()
def _move(weights: Mapping[str, Tensor], original: Mapping[str, Tensor], rate: float) -> None:
    """Each tensor of more than one number along its own gradient, as far as `rate` times its original norm."""
    for name, weight in weights.items():
        if weight.numel() > 1 and weight.grad is not None:
            length = original[name].norm() / (weight.grad.norm() + _TINY)
            weight.add_(weight.grad * length, alpha=rate)
