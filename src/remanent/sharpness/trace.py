"""The trace of the loss's Hessian: curvature added up over all directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from remanent.core.estimate import Estimate
from remanent.errors import InputError
from remanent.sharpness.estimate import mean_over
from remanent.sharpness.hessian import flat_size, hessian_product
from remanent.sharpness.surface import LossSurface


@dataclass(frozen=True)
class Trace:
    """The trace of the Hessian.

    Args:
        trace: Hutchinson's estimate on this data, with Student's interval over probes.
        weights: how many numbers the weights are; the trace over it is the mean eigenvalue.
        probes: v H v of each.
    """

    trace: Estimate
    weights: int
    probes: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "trace",
            "trace": self.trace.to_dict(),
            "weights": self.weights,
            "probes": list(self.probes),
        }


def trace(
    surface: LossSurface, probes: int = 16, *, seed: int = 0, on_batch: Callable[[], None] = lambda: None
) -> Trace:
    """Trace of the Hessian of the mean loss, by Hutchinson's estimator: mean of v H v over v of random signs.

    Args:
        surface: model, batches, loss, weights and point.
        probes: products with the Hessian, at least 2.
        seed: of the signs.
        on_batch: called after each batch of a product.
    """
    if probes < 2:
        raise InputError("probes", probes, "at least 2")
    generator = torch.Generator().manual_seed(seed)
    found = []
    with surface.entered() as weights:
        first = next(iter(weights.values()))
        size = flat_size(weights)
        for _ in range(probes):
            signs = torch.randint(0, 2, (size,), generator=generator).to(first.device, first.dtype) * 2 - 1
            found.append(float(signs @ hessian_product(surface, weights, signs, on_batch)))
    return Trace(mean_over(found), size, tuple(found))
