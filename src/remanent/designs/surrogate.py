"""Surrogates: networks that stand for an unknown score, and their training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.optim import Adam, Optimizer

from remanent.core.sampling import seed_of
from remanent.designs.ignite import IGNITE, mean_gradient_norm

# (surrogate, inputs, scores, weights) -> the loss, whose backward pass has been run
Loss = Callable[["Surrogate", Tensor, Tensor, Tensor], Tensor]
_SLOPE = 0.3  # of the leaky rectifier in Keras, which the official code is written in
_TINY = 1e-7  # Adam's, in Keras


class Regularizer(Protocol):
    """Makes what steps a surrogate: `IGNITE`, with its hyper-parameters bound by `functools.partial`."""

    def __call__(self, base: Optimizer, *, model: nn.Module) -> IGNITE: ...


PLAIN: Regularizer = partial(IGNITE, coefficient=0.0, eta=0.0)


@dataclass(frozen=True)
class Recipe:
    """How surrogates are made and trained.

    Args:
        hidden: width of each hidden layer.
        activation: between layers.
        gaussian: a mean and a standard deviation for each design; otherwise a mean alone.
        members: surrogates, each trained by itself.
        bootstrap: each member sees records drawn with replacement.
        epochs: passes over the records.
        batch_size: records per update.
        learning_rate: of Adam.
    """

    hidden: tuple[int, ...] = (2048, 2048)
    activation: Literal["leaky-relu", "relu", "softplus"] = "leaky-relu"
    gaussian: bool = True
    members: int = 1
    bootstrap: bool = False
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 3e-4


class Surrogate(nn.Module):
    """A network from normalized designs to the mean, and with `gaussian` the standard deviation, of their score.

    Weights by Glorot's uniform draw, biases 0; the log standard deviation is softly clipped between two learnt bounds
    that start at log 0.1 and log 0.2.

    Args:
        inputs: numbers in a design.
        recipe: its shape.
        generator: draws the weights.
    """

    def __init__(self, inputs: int, recipe: Recipe, generator: torch.Generator) -> None:
        super().__init__()
        between: dict[str, Callable[[], nn.Module]] = {
            "leaky-relu": partial(nn.LeakyReLU, _SLOPE),
            "relu": nn.ReLU,
            "softplus": nn.Softplus,
        }
        layers: list[nn.Module] = []
        for width in recipe.hidden:
            layers += [skip_init(nn.Linear, inputs, width), between[recipe.activation]()]  # type: ignore[no-untyped-call]
            inputs = width
        self.layers = nn.Sequential(*layers, skip_init(nn.Linear, inputs, 2 if recipe.gaussian else 1))  # type: ignore[no-untyped-call]
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        if recipe.gaussian:
            self.most = nn.Parameter(torch.tensor(math.log(0.2)))
            self.least = nn.Parameter(torch.tensor(math.log(0.1)))
        self.gaussian = recipe.gaussian

    def forward(self, inputs: Tensor) -> Tensor:
        """The mean score of each design: (designs,)."""
        mean: Tensor = self.layers(inputs)[:, 0]
        return mean

    def distribution(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each design's score: (designs,) each."""
        made = self.layers(inputs)
        softplus = nn.functional.softplus
        log = self.most - softplus(self.most - made[:, 1])
        log = self.least + softplus(log - self.least)
        return made[:, 0], log.exp()


class Surrogates:
    """Surrogates as one: the mean, or with `pessimistic` the smallest, of their mean predictions.

    Args:
        members: the surrogates.
        pessimistic: take the smallest.
    """

    def __init__(self, members: Sequence[Surrogate], *, pessimistic: bool = False) -> None:
        self.members, self.pessimistic = list(members), pessimistic

    def __call__(self, inputs: Tensor) -> Tensor:
        """(designs, inputs) -> (designs,)."""
        found = torch.stack([member(inputs) for member in self.members])
        return found.amin(dim=0) if self.pessimistic else found.mean(dim=0)

    def gradient_norm(self, inputs: Tensor) -> float:
        """Mean over members of ||grad h||, h the mean prediction on these inputs."""
        norms = [mean_gradient_norm(member, lambda member=member: member(inputs).mean()) for member in self.members]  # type: ignore[misc]
        return sum(norms) / len(norms)


def log_losses(surrogate: Surrogate, inputs: Tensor, scores: Tensor) -> Tensor:
    """Negative log-likelihood of each design's score under the surrogate's Gaussian: (designs,), in nats."""
    mean, deviation = surrogate.distribution(inputs)
    return 0.5 * ((scores - mean) / deviation) ** 2 + deviation.log() + 0.5 * math.log(2 * math.pi)


def gaussian_nll(surrogate: Surrogate, inputs: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean negative log-likelihood of the scores under the surrogate's Gaussian; its backward pass is run."""
    loss: Tensor = (weights * log_losses(surrogate, inputs, scores)).sum() / weights.sum().clamp(min=1)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


def squared_error(surrogate: Surrogate, inputs: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared error of the mean prediction; its backward pass is run."""
    loss: Tensor = (weights * (surrogate(inputs) - scores) ** 2).sum() / weights.sum().clamp(min=1)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


def own_loss(recipe: Recipe) -> Loss:
    """The Gaussian likelihood, or the squared error of surrogates without a deviation."""
    return gaussian_nll if recipe.gaussian else squared_error


def fit(
    inputs: Tensor,
    scores: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    losses: Callable[[torch.Generator], Loss],
    regularizer: Regularizer = PLAIN,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> list[Surrogate]:
    """Train surrogates on designs and their scores.

    Each member has its own weights, order of records and, with `bootstrap`, sample of them, all from the seed.

    Args:
        inputs: normalized designs, float32: (designs, inputs).
        scores: normalized scores: (designs,).
        recipe: shape and training.
        seed: at least 0.
        losses: makes each member's loss, with a generator to draw from.
        regularizer: `PLAIN`, or `functools.partial(IGNITE, ...)`.
        on_epoch: called after each epoch with those done and those to be done, over all members.

    Raises DivergedError where a loss is not finite.
    """
    members: list[Surrogate] = []
    for number in range(recipe.members):
        generator = torch.Generator().manual_seed(seed_of(seed, "surrogate", number))
        surrogate = Surrogate(inputs.shape[1], recipe, generator)
        loss = losses(generator)
        weights = torch.ones(len(inputs))
        if recipe.bootstrap:
            drawn = torch.randint(len(inputs), (len(inputs),), generator=generator)
            weights = torch.bincount(drawn, minlength=len(inputs)).float()
        optimizer = regularizer(Adam(surrogate.parameters(), lr=recipe.learning_rate, eps=_TINY), model=surrogate)
        for epoch in range(recipe.epochs):
            for rows in torch.randperm(len(inputs), generator=generator).split(recipe.batch_size):  # type: ignore[no-untyped-call]
                x, y, w = inputs[rows], scores[rows], weights[rows]
                optimizer.step(lambda: loss(surrogate, x, y, w), lambda: surrogate(x).mean())  # noqa: B023
            on_epoch(number * recipe.epochs + epoch + 1, recipe.members * recipe.epochs)
        members.append(surrogate.eval())
    return members
