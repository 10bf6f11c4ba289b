"""From designs with scores to designs that should score higher: train surrogates, then search them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from remanent.core.sampling import seed_of
from remanent.designs.gradient_ascent import GradientAscent
from remanent.designs.problem import Problem
from remanent.designs.surrogate import PLAIN, Loss, Recipe, Regularizer, Surrogate, Surrogates, fit
from remanent.errors import InputError


class Search(Protocol):
    """An offline optimizer: how surrogates are trained, and how they are searched.

    One that needs several inputs says how many in `least_inputs`.
    """

    @property
    def recipe(self) -> Recipe: ...

    def loss(self, generator: torch.Generator) -> Loss:
        """One surrogate's loss, which may draw from the generator."""
        ...

    def search(self, members: Sequence[Surrogate], problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Inputs of the designs found: (count, inputs)."""
        ...


@dataclass(frozen=True)
class Proposal:
    """Designs that were found.

    Args:
        designs: float64, (count, inputs), in the units of those given, blocks one-hot; the most promising first.
        promised: mean prediction of the surrogates for each, in the units of the scores. A search picks what its
            surrogates overrate, so it is more than can be expected.
        outside: how many inputs of each lie outside the range of the known designs.
        gradient_norm: ||grad h|| of the surrogates' mean prediction on the known designs, normalized, a mean over them.
    """

    designs: Tensor
    promised: Tensor
    outside: Tensor
    gradient_norm: float


def propose(
    designs: Tensor,
    scores: Tensor,
    search: Search | None = None,
    *,
    blocks: Sequence[slice] = (),
    count: int = 128,
    seed: int = 0,
    regularizer: Regularizer = PLAIN,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> Proposal:
    """Find designs that should score higher than the known ones, from these alone.

    Args:
        designs: (designs, inputs), numbers, and categories one-hot.
        scores: (designs,), higher is better.
        search: `GradientAscent` where nothing is said.
        blocks: slices of the inputs that are one category each.
        count: designs to find, at most as many as are known.
        seed: of weights, order and draws.
        regularizer: `functools.partial(IGNITE, ...)`; `PLAIN` is none.
        on_epoch: called after each epoch of training with those done and those to be done.

    Raises InputError for designs or scores that do not fit, DivergedError where training diverges.
    """
    search = search or GradientAscent()
    problem = Problem.of(designs, scores, blocks)
    problem.best(count)
    least = getattr(search, "least_inputs", 1)
    if problem.inputs.shape[1] < least:
        raise InputError(
            "designs", problem.inputs.shape[1], f"at least {least} inputs that vary, which the search needs"
        )
    members = fit(
        problem.inputs,
        problem.scores,
        search.recipe,
        seed=seed,
        losses=search.loss,
        regularizer=regularizer,
        on_epoch=on_epoch,
    )
    predict = Surrogates(members)
    generator = torch.Generator().manual_seed(seed_of(seed, "search"))
    found = problem.snapped(search.search(members, problem, count, generator))
    with torch.no_grad():
        promised = predict(found)
    order = promised.argsort(descending=True, stable=True)
    return Proposal(
        problem.designs(found[order]),
        promised[order].double() * problem.score_scale + problem.score_center,
        problem.outside(found[order]),
        predict.gradient_norm(problem.inputs),
    )
