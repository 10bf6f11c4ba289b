"""The largest eigenvalues of the loss's Hessian: curvature along the steepest directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from remanent.core.estimate import Estimate
from remanent.errors import InputError
from remanent.sharpness.estimate import over_batches
from remanent.sharpness.hessian import batch_product, hessian_product, lanczos, random_direction
from remanent.sharpness.surface import LossSurface


@dataclass(frozen=True)
class Eigenvalues:
    """The top of the Hessian's spectrum.

    Args:
        top: the largest eigenvalues, largest first. The ends are Student's over batches, of the curvature along the
            eigenvector found: to first order how the eigenvalue varies with the data.
        residuals: how far an eigenvalue of this data's Hessian may be from each, at most.
        lowest: the smallest Ritz value, which is at or above the smallest eigenvalue.
        loss: the mean loss; eigenvalues fall with it where a softmax saturates.
        steps: products with the Hessian that Lanczos took.
    """

    top: tuple[Estimate, ...]
    residuals: tuple[float, ...]
    lowest: float
    loss: float
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "eigenvalues",
            "top": [item.to_dict() for item in self.top],
            "residuals": list(self.residuals),
            "lowest": self.lowest,
            "loss": self.loss,
            "steps": self.steps,
        }


def eigenvalues(
    surface: LossSurface,
    count: int = 1,
    *,
    steps: int = 30,
    tolerance: float = 1e-3,
    seed: int = 0,
    on_batch: Callable[[], None] = lambda: None,
) -> Eigenvalues:
    """The largest eigenvalues of the Hessian of the mean loss over the selected weights together.

    Lanczos on Hessian-vector products, each a double backward pass over all batches; it keeps a copy of the selected
    weights a step. Attention runs by the plain kernel.

    Args:
        surface: `select` one block's weights for that block's diagonal part of the Hessian.
        count: how many.
        steps: products at most, above `count`.
        tolerance: ends once the largest is that accurate relative to itself and count is 1; 0 takes all steps.
        seed: of the vector that Lanczos starts from.
        on_batch: called after each batch of a product.
    """
    if count < 1:
        raise InputError("count", count, "at least 1")
    if steps <= count:
        raise InputError("steps", steps, f"more than the {count} eigenvalues that are asked for")
    with surface.entered() as weights:
        start = random_direction(weights, torch.Generator().manual_seed(seed))
        found = lanczos(
            lambda vector: hessian_product(surface, weights, vector, on_batch),
            start,
            steps,
            tolerance if count == 1 else 0.0,
        )
        places = range(len(found.values) - 1, max(-1, len(found.values) - 1 - count), -1)
        top = []
        for place in places:
            vector = found.vector(place)
            along = [batch_product(surface, weights, batch, vector) for batch in surface.batches]
            curvature = over_batches([float(vector @ product) for product, _ in along], [size for _, size in along])
            top.append(curvature)
        losses = torch.cat([surface.losses(batch) for batch in surface.batches])
    return Eigenvalues(
        tuple(top),
        tuple(found.residual(place) for place in places),
        float(found.values[0]),
        float(losses.mean()),
        len(found.basis),
    )
