"""The loss along one or two random directions through the weights, of a size that filters set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from remanent.core.displacement import Context, Displacement
from remanent.core.displacement.noise import generator_of
from remanent.core.estimate import Estimate
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.sharpness.estimate import over_batches
from remanent.sharpness.surface import LossSurface

Direction = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Along(Displacement):
    """w + sum of t_i d_i.

    Args:
        directions: name of the weight -> d_i; a name that is missing is 0.
        distances: t_i.
    """

    directions: Sequence[Direction]
    distances: Sequence[float]

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        for name, weight in weights.items():
            for direction, distance in zip(self.directions, self.distances, strict=True):
                if name in direction and distance != 0:
                    weight.add_(direction[name].to(weight), alpha=distance)

    def __str__(self) -> str:
        return "along-" + ",".join(f"{distance:g}" for distance in self.distances)


def filter_normalized(weights: Weights, seed: int = 0) -> dict[str, Tensor]:
    """A random direction whose rows (filters) are as long as the weights' own; weights of one dimension stay.

    Args:
        weights: what moves.
        seed: which direction; each tensor's own is drawn by its name.

    Source: Li et al., arXiv 1712.09913, section 4.
    """
    found = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            continue
        drawn = torch.randn(weight.shape, generator=generator_of(name, seed)).to(weight)
        rows = weights.within_rows(name)
        lengths = torch.linalg.vector_norm(weight.detach(), dim=rows, keepdim=True)
        found[name] = drawn * lengths / torch.linalg.vector_norm(drawn, dim=rows, keepdim=True).clamp_min(1e-12)
    if not found:
        raise InputError("select", "weights of one dimension", "at least one matrix or filter, which directions are of")
    return found


@dataclass(frozen=True)
class Landscape:
    """Losses on a line or a plane through the weights.

    Args:
        distances: on each axis, in lengths of the filters.
        losses: at each distance; of a plane, rows are the first axis. With Student's interval over batches.
        seed: of the directions.
    """

    distances: tuple[float, ...]
    losses: tuple[Estimate, ...] | tuple[tuple[Estimate, ...], ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        losses = [
            item.to_dict() if isinstance(item, Estimate) else [inner.to_dict() for inner in item]
            for item in self.losses
        ]
        return {"measure": "landscape", "distances": list(self.distances), "losses": losses, "seed": self.seed}


def landscape(
    surface: LossSurface,
    distances: Sequence[float],
    *,
    dimensions: int = 1,
    seed: int = 0,
    directions: Sequence[Direction] | None = None,
    on_point: Callable[[], None] = lambda: None,
) -> Landscape:
    """The mean loss at w + a d1 (+ b d2), one forward pass over the batches a point.

    Args:
        surface: model, batches, loss, weights and point.
        distances: where on each axis; 0 is the weights themselves.
        dimensions: 1 or 2.
        seed: of the first direction; the second's is one more.
        directions: in the place of random ones, such as an eigenvector; their number is the dimensions.
        on_point: called after each point.
    """
    if dimensions not in (1, 2):
        raise InputError("dimensions", dimensions, "1 or 2")
    if not distances:
        raise InputError("distances", "none", "at least one distance")
    with surface.entered() as weights:
        along = directions or [filter_normalized(weights, seed + axis) for axis in range(dimensions)]

        def at(*place: float) -> Estimate:
            with Along(along, place).at(weights):
                found = [surface.losses(batch) for batch in surface.batches]
            on_point()
            return over_batches([float(losses.sum()) for losses in found], [len(losses) for losses in found])

        if len(along) == 1:
            return Landscape(tuple(distances), tuple(at(first) for first in distances), seed)
        plane = tuple(tuple(at(first, second) for second in distances) for first in distances)
    return Landscape(tuple(distances), plane, seed)
