"""Products with the Hessian of a surface's loss, and Lanczos' method on them.

Own products on `core/curvature`, and not a library's: they go through any loss of ours (answers of a language model,
a LoRA alone, rounded weights), and add one batch at a time. Tests hold them to a dense Hessian, to curvlinops and to
PyHessian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from remanent.core.curvature import add_hessian_product, twice_differentiable
from remanent.core.weights import Weights
from remanent.errors import DivergedError
from remanent.sharpness.surface import LossSurface

Array = NDArray[np.float64]
_BREAKDOWN = 1e-6  # of the largest entry so far: the vectors have spanned all that the start reaches


def flat_size(weights: Weights) -> int:
    """How many numbers the weights are."""
    return sum(weight.numel() for weight in weights.values())


def split(weights: Weights, vector: Tensor) -> dict[str, Tensor]:
    """A flat vector as tensors of the weights' shapes."""
    parts = torch.split(vector, [weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for part, (name, weight) in zip(parts, weights.items(), strict=True)}


def flat_gradient(weights: Weights) -> Tensor:
    """`.grad` of all weights as one vector, 0 where there is none; taken away from the weights."""
    parts = []
    for weight in weights.values():
        parts.append((torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten())
        weight.grad = None
    return torch.cat(parts)


def batch_gradient(surface: LossSurface, weights: Weights, batch: object) -> tuple[Tensor, int]:
    """The gradient of the summed losses of a batch, flat, and how many losses they are."""
    losses = surface.loss(surface.model, batch)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return flat_gradient(weights), losses.numel()


def batch_product(surface: LossSurface, weights: Weights, batch: object, vector: Tensor) -> tuple[Tensor, int]:
    """H v of the summed losses of a batch, and how many losses they are."""
    with twice_differentiable():
        losses = surface.loss(surface.model, batch)
        add_hessian_product(losses.sum(), weights, split(weights, vector))
    return flat_gradient(weights), losses.numel()


def hessian_product(
    surface: LossSurface, weights: Weights, vector: Tensor, on_batch: Callable[[], None] = lambda: None
) -> Tensor:
    """H v, H the Hessian of the mean loss over all samples of all batches.

    Args:
        surface: entered.
        weights: what `entered` gave.
        vector: flat.
        on_batch: called after each batch.
    """
    total, count = torch.zeros_like(vector), 0
    for batch in surface.batches:
        product, size = batch_product(surface, weights, batch, vector)
        total += product
        count += size
        on_batch()
    return total / count


def random_direction(weights: Weights, generator: torch.Generator) -> Tensor:
    """A flat normal vector of length 1, on the weights' device."""
    first = next(iter(weights.values()))
    drawn = torch.randn(flat_size(weights), generator=generator, dtype=first.dtype).to(first.device)
    direction: Tensor = drawn / drawn.norm()
    return direction


@dataclass(frozen=True, eq=False)
class Krylov:
    """What Lanczos found: a small tridiagonal matrix that stands for the Hessian.

    Args:
        values: eigenvalues of the small matrix, ascending: (steps,).
        vectors: its eigenvectors, one a column: (steps, steps).
        last: length of what is left after the last step; it bounds what Ritz values are wrong by.
        basis: (steps, weights), orthonormal.
    """

    values: Array
    vectors: Array
    last: float
    basis: list[Tensor]

    def residual(self, index: int) -> float:
        """How far an eigenvalue of the Hessian may be from the Ritz value, at most."""
        return float(abs(self.last * self.vectors[-1, index]))

    def vector(self, index: int) -> Tensor:
        """The Ritz vector, flat, of length 1."""
        found = torch.zeros_like(self.basis[0])
        for share, part in zip(self.vectors[:, index], self.basis, strict=True):
            found.add_(part, alpha=float(share))
        length = float(found.norm())
        return found.div_(length)


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int, tolerance: float = 0.0) -> Krylov:
    """Lanczos' method with full reorthogonalization; keeps one vector a step.

    Args:
        product: v -> H v, H symmetric.
        start: of length 1.
        steps: at most; fewer where the vectors span all that the start reaches.
        tolerance: ends sooner, once the largest Ritz value is that accurate, relative to itself; 0 does not.

    Raises DivergedError where a product is not finite.
    """
    basis: list[Tensor] = [start]
    diagonal: list[float] = []
    off: list[float] = []
    steps = min(steps, start.numel())
    while True:
        ahead = product(basis[-1])
        diagonal.append(float(basis[-1] @ ahead))
        for _ in range(2):  # once is not enough in floating point
            for part in basis:
                ahead = ahead - part * (part @ ahead)
        last = float(ahead.norm())
        if not math.isfinite(last):
            raise DivergedError("a product with the Hessian is not finite: the loss has no second derivative here")
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
        largest = float(np.abs([*diagonal, *off]).max())
        accurate = abs(last * vectors[-1, -1]) <= tolerance * abs(values[-1])
        if len(basis) == steps or last <= _BREAKDOWN * largest or (tolerance > 0 and accurate and len(basis) > 1):
            return Krylov(values, vectors, last, basis)
        off.append(last)
        basis.append(ahead / last)
