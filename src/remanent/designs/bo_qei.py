"""BO-qEI: Bayesian optimization by the expected improvement of a batch, on labels from the surrogates."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from remanent.designs.problem import Problem
from remanent.designs.reinforce import BOOTSTRAPS
from remanent.designs.surrogate import Loss, Recipe, Surrogate, Surrogates, own_loss
from remanent.errors import MissingExtraError


@dataclass(frozen=True)
class BOqEI:
    """A Gaussian process by the package `botorch` on the best known designs, batches by qEI, labels by the surrogates.

    New designs stay within the range of the known ones, input by input. Those with the best labels are returned, known
    ones among them.

    Args:
        recipe: of the surrogates.
        known: designs that the process begins with, at most.
        noise: standard deviation of a label, in standard deviations of the score.
        batch_size: designs asked for in each round.
        rounds: of asking.
        samples: Monte Carlo samples of the improvement.
        restarts: of its maximization.
        raw_samples: among which those begin.
        iterations: of each of those, at most.

    Raises MissingExtraError, when it is made, where `botorch` is not installed.

    Source: settings of cuong-dm/IGNITE, bo_qei_IGNITE.
    """

    recipe: Recipe = BOOTSTRAPS
    known: int = 500
    noise: float = 0.1
    batch_size: int = 32
    rounds: int = 10
    samples: int = 128
    restarts: int = 10
    raw_samples: int = 128
    iterations: int = 200

    def __post_init__(self) -> None:
        _botorch("models")

    def loss(self, generator: torch.Generator) -> Loss:
        """The surrogate's own."""
        return own_loss(self.recipe)

    def search(self, members: Sequence[Surrogate], problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Inputs of the designs found: (count, inputs)."""
        predict = Surrogates(members)
        order = problem.scores.topk(min(max(self.known, count), len(problem.scores))).indices
        inputs, labels = problem.inputs[order].double(), problem.scores[order].double()[:, None]
        bounds = torch.stack([problem.inputs.amin(dim=0), problem.inputs.amax(dim=0)]).double()
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            state = None
            for _ in range(self.rounds):
                state, asked = self._asked(inputs, labels, bounds, state)
                with torch.no_grad():
                    promised = predict(asked.float()).double()[:, None]
                promised += self.noise * torch.randn(promised.shape, generator=generator, dtype=torch.float64)
                inputs, labels = torch.cat([inputs, asked]), torch.cat([labels, promised])
        return inputs[labels[:, 0].topk(count).indices].float()

    def _asked(self, inputs: Tensor, labels: Tensor, bounds: Tensor, state: Any) -> tuple[Any, Tensor]:
        """The process's state once it is fitted, from which the next one starts, and the batch that it asks for."""
        process = _botorch("models").SingleTaskGP(
            inputs, labels, train_Yvar=torch.full_like(labels, self.noise**2), outcome_transform=None
        )
        if state is not None:
            process.load_state_dict(state)
        likelihood = importlib.import_module("gpytorch.mlls").ExactMarginalLogLikelihood
        _botorch("fit").fit_gpytorch_mll(likelihood(process.likelihood, process))
        sampler = _botorch("sampling").SobolQMCNormalSampler(torch.Size([self.samples]))
        improvement = _botorch("acquisition").qExpectedImprovement(process, best_f=labels.max(), sampler=sampler)
        asked, _ = _botorch("optim").optimize_acqf(
            improvement,
            bounds=bounds,
            q=self.batch_size,
            num_restarts=self.restarts,
            raw_samples=self.raw_samples,
            options={"batch_limit": 5, "maxiter": self.iterations},
        )
        return process.state_dict(), asked.detach()


def _botorch(part: str) -> Any:
    try:
        return importlib.import_module(f"botorch.{part}")
    except ImportError:
        raise MissingExtraError("botorch", "designs", "BO-qEI") from None
