"""The length of the loss's gradient: whether the weights are at a minimum at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from remanent.core.estimate import Estimate
from remanent.sharpness.estimate import over_batches
from remanent.sharpness.hessian import batch_gradient
from remanent.sharpness.surface import LossSurface


@dataclass(frozen=True)
class GradientNorm:
    """The gradient's L2 norm.

    Args:
        norm: of the mean loss over all samples, with Student's interval over batches of the slope along it.
        batches: norm of each batch's own gradient, which sampling makes larger.
    """

    norm: Estimate
    batches: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"measure": "gradient-norm", "norm": self.norm.to_dict(), "batches": list(self.batches)}


def gradient_norm(surface: LossSurface, *, on_batch: Callable[[], None] = lambda: None) -> GradientNorm:
    """L2 norm of the gradient of the mean loss over the selected weights together.

    Two passes over the batches, the second for the interval.

    Args:
        surface: model, batches, loss, weights and point.
        on_batch: called after each batch of the first pass.
    """
    norms, count = [], 0
    with surface.entered() as weights:
        total: torch.Tensor | None = None
        for batch in surface.batches:
            gradient, size = batch_gradient(surface, weights, batch)
            norms.append(float(gradient.norm()) / size)
            total = gradient if total is None else total.add_(gradient)
            count += size
            on_batch()
        assert total is not None
        length = float(total.norm()) / count
        if length == 0 or len(norms) < 2:
            return GradientNorm(Estimate(length), tuple(norms))
        direction = total / total.norm()
        sums, counts = [], []
        for batch in surface.batches:
            gradient, size = batch_gradient(surface, weights, batch)
            sums.append(float(direction @ gradient))
            counts.append(size)
    return GradientNorm(over_batches(sums, counts), tuple(norms))
