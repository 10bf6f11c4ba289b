"""The loss under Gaussian noise on the weights: flatness on average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from remanent.core.displacement import Noise
from remanent.core.displacement.scale import Scale
from remanent.core.estimate import Estimate
from remanent.errors import InputError
from remanent.sharpness.estimate import mean_over
from remanent.sharpness.surface import LossSurface


@dataclass(frozen=True)
class NoisyLoss:
    """The loss under noise.

    Args:
        loss: mean loss at w + sigma c n, with Student's interval over draws.
        sigma: standard deviation of the noise, in units of c.
        scale: c; "none" is absolute, as in the paper: larger weights feel it less.
        draws: how many.
    """

    loss: Estimate
    sigma: float
    scale: Scale
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "noisy-loss",
            "loss": self.loss.to_dict(),
            "sigma": self.sigma,
            "scale": self.scale,
            "draws": self.draws,
        }


def noisy_loss(
    surface: LossSurface,
    sigma: float = 0.02,
    scale: Scale = "none",
    draws: int = 10,
    *,
    seed: int = 0,
    on_batch: Callable[[], None] = lambda: None,
) -> NoisyLoss:
    """The mean loss over all batches at random points, the same ones for every batch.

    Args:
        surface: model, batches, loss, weights and point.
        sigma: of the noise.
        scale: its unit, see `Scale`.
        draws: at least 2.
        seed: of the noise.
        on_batch: called after each batch of each draw.

    Source: arXiv 2106.01548, section 4.
    """
    if draws < 2:
        raise InputError("draws", draws, "at least 2")
    found = []
    with surface.entered() as weights:
        for draw in range(draws):
            with Noise(sigma, (seed << 32) + draw, scale).at(weights):
                losses = []
                for batch in surface.batches:
                    losses.append(surface.losses(batch))
                    on_batch()
            found.append(sum(float(item.sum()) for item in losses) / sum(len(item) for item in losses))
    return NoisyLoss(mean_over(found), sigma, scale, draws)
