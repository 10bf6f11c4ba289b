"""The density of the Hessian's eigenvalues: how many directions are curved, and how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from remanent.core.estimate import Estimate
from remanent.errors import InputError
from remanent.sharpness.estimate import Array, mean_over
from remanent.sharpness.hessian import hessian_product, lanczos, random_direction
from remanent.sharpness.surface import LossSurface

_SPREADS = 4.0  # standard deviations of room on either side of the grid


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Eigenvalues as a density of area 1.

    Args:
        nodes: of each probe, Ritz values: (probes, steps), padded with the last.
        shares: of each probe, the share of eigenvalues that each stands for: (probes, steps), rows add to 1.
        rounding: size below which an eigenvalue may be 0 with the rounding of the products.
    """

    nodes: Array
    shares: Array
    rounding: float = 0.0

    def share_above(self, threshold: float) -> Estimate:
        """The share of eigenvalues above a threshold, with Student's interval over probes."""
        return mean_over(list(np.where(self.nodes > threshold, self.shares, 0.0).sum(axis=1)))

    def share_below(self, threshold: float) -> Estimate:
        """The share of eigenvalues below a threshold, with Student's interval over probes."""
        return mean_over(list(np.where(self.nodes < threshold, self.shares, 0.0).sum(axis=1)))

    def negative(self) -> Estimate:
        """The share of eigenvalues below 0 by more than rounding: of directions in which the loss curves down."""
        return self.share_below(-self.rounding)

    def moment(self, power: int) -> Estimate:
        """The mean of a power of the eigenvalues, with Student's interval over probes; of 1 it is trace over size."""
        return mean_over(list((self.shares * self.nodes**power).sum(axis=1)))

    def curve(self, points: int = 400, width: float | None = None) -> tuple[Array, Array]:
        """The density on a grid: (eigenvalues, density), each eigenvalue a normal curve.

        Args:
            points: of the grid.
            width: standard deviation of a curve; 1 % of the range by default.
        """
        low, high = float(self.nodes.min()), float(self.nodes.max())
        spread = width or 0.01 * max(high - low, 1e-12)
        grid = np.linspace(low - _SPREADS * spread, high + _SPREADS * spread, points)
        normal = np.exp(-0.5 * ((grid - self.nodes[..., None]) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
        return grid, (self.shares[..., None] * normal).sum(axis=1).mean(axis=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        grid, density = self.curve()
        return {
            "measure": "spectral-density",
            "mean": self.moment(1).to_dict(),
            "negative": self.negative().to_dict(),
            "nodes": self.nodes.tolist(),
            "shares": self.shares.tolist(),
            "grid": grid.tolist(),
            "density": density.tolist(),
        }


def spectral_density(
    surface: LossSurface,
    probes: int = 4,
    steps: int = 30,
    *,
    seed: int = 0,
    on_batch: Callable[[], None] = lambda: None,
) -> SpectralDensity:
    """The Hessian's spectral density by stochastic Lanczos quadrature.

    Each probe runs Lanczos from a random vector; its Ritz values, weighted by the squared first entries of their
    vectors, stand for the spectrum. Costs probes x steps products, and a copy of the weights a step.

    Args:
        surface: model, batches, loss, weights and point.
        probes: random vectors, at least 2.
        steps: of Lanczos.
        seed: of the vectors.
        on_batch: called after each batch of a product.

    Source: Ghorbani, Krishnan and Xiao, arXiv 1901.10159, algorithm 1.
    """
    if probes < 2:
        raise InputError("probes", probes, "at least 2")
    if steps < 1:
        raise InputError("steps", steps, "at least 1")
    generator = torch.Generator().manual_seed(seed)
    with surface.entered() as weights:
        found = [
            lanczos(
                lambda vector: hessian_product(surface, weights, vector, on_batch),
                random_direction(weights, generator),
                steps,
            )
            for _ in range(probes)
        ]
        precision = max(torch.finfo(weight.dtype).eps for weight in weights.values())
    longest = max(len(item.values) for item in found)
    nodes = _padded([item.values for item in found], longest, edge=True)
    shares = _padded([item.vectors[0] ** 2 for item in found], longest, edge=False)
    return SpectralDensity(nodes, shares, longest * precision * float(np.abs(nodes).max()))


def _padded(rows: Sequence[Array], length: int, *, edge: bool) -> Array:
    return np.stack([np.pad(row, (0, length - len(row)), mode="edge" if edge else "constant") for row in rows])
