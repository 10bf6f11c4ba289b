"""The point of a convex hull that lies nearest to 0, and sums of gradients that conflict with none, from inner
products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from remanent.core.gradient_rules.gramian import RANK

_NOTHING = 1e-14  # of the largest weight: that of a gradient 1e7 times as long as another, beyond float32


def min_norm(gramian: Tensor) -> Tensor:
    """w of the simplex with the least w^T A w: (tasks,), float64.

    min over x >= 0 of x^T A x + (1^T x - 1)^2 has x = w / (1 + w^T A w): a non-negative least squares problem, which
    the active set method of Lawson and Hanson solves exactly, in finitely many steps.

    Args:
        gramian: A, (tasks, tasks).
    """
    size = len(gramian)
    scale = float(gramian.diagonal().mean())
    if scale == 0:
        return torch.full((size,), 1 / size, dtype=torch.float64)
    system = torch.cat([root(gramian / scale), torch.ones(1, size, dtype=torch.float64)])
    target = torch.zeros(size + 1, dtype=torch.float64)
    target[-1] = 1.0
    found = non_negative(system, target)
    # What rounding leaves of 0, by the machine, is no weight: beside a gradient of 0 it would look like all there is.
    found[found < _NOTHING * found.max()] = 0.0
    return found / found.sum()


def length(gramian: Tensor, weights: Tensor) -> float:
    """|sum of w_i g_i|."""
    return math.sqrt(max(0.0, float(weights @ gramian @ weights)))


def rounding(gramian: Tensor, weights: Tensor) -> float:
    """The length of a sum with weights of at least 0 below which gradients in float32 do not tell it from 0.

    Relative to the sum of w_i |g_i|: a task with small gradients alone is no cancellation.
    """
    return math.sqrt(len(weights) * RANK) * float(weights @ gramian.diagonal().sqrt())


def non_negative(system: Tensor, target: Tensor) -> Tensor:
    """x >= 0 with the least |system x - target|: (columns,), float64."""
    from scipy.optimize import nnls  # heavy, and only needed here

    found: Tensor = torch.from_numpy(nnls(system.numpy(), target.numpy(), maxiter=100 * len(target))[0])
    return found


def root(gramian: Tensor) -> Tensor:
    """L with L^T L = A, also where A is singular."""
    values, vectors = torch.linalg.eigh(gramian)
    factor: Tensor = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return factor
