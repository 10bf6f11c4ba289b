"""CMA-ES: an evolution strategy from each of the best known designs, on the surrogates' mean prediction."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from remanent.designs.problem import Problem
from remanent.designs.reinforce import BOOTSTRAPS
from remanent.designs.surrogate import Loss, Recipe, Surrogate, Surrogates, own_loss
from remanent.errors import MissingExtraError


@dataclass(frozen=True)
class CMAES:
    """Covariance matrix adaptation by the package `cma`, a run for each design.

    Args:
        recipe: of the surrogates.
        deviation: at the start, in standard deviations of the input.
        generations: at most.

    Raises MissingExtraError, when it is made, where `cma` is not installed.

    Source: settings of cuong-dm/IGNITE, cma_es_IGNITE.
    """

    recipe: Recipe = BOOTSTRAPS
    deviation: float = 0.5
    generations: int = 100

    least_inputs: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _cma()

    def loss(self, generator: torch.Generator) -> Loss:
        """The surrogate's own."""
        return own_loss(self.recipe)

    def search(self, members: Sequence[Surrogate], problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Inputs of the designs found: (count, inputs)."""
        cma, predict = _cma(), Surrogates(members)
        draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        # A seed that is not a number leaves NumPy's global generator alone.
        options = {"seed": math.nan, "randn": lambda *shape: draws.standard_normal(shape), "verbose": -9}
        found = []
        for start in problem.best(count):
            strategy = cma.CMAEvolutionStrategy(start.double().numpy(), self.deviation, options)
            for _ in range(self.generations):
                if strategy.stop():
                    break
                asked = strategy.ask()
                with torch.no_grad():
                    promised = predict(torch.as_tensor(np.stack(asked)).float())
                strategy.tell(asked, (-promised).double().tolist())
            found.append(torch.as_tensor(strategy.result.xbest).float())
        return torch.stack(found)


def _cma() -> Any:
    try:
        return importlib.import_module("cma")
    except ImportError:
        raise MissingExtraError("cma", "designs", "CMA-ES") from None
