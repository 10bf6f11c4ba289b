"""The loss geometry that vision transformers and mixers converge to, with and without sharpness-aware training.

One report of a model: the largest eigenvalue of the Hessian, as a whole and of each layer, the loss under Gaussian
noise, the share of active neurons, and the weights' norm. The paper's other figure, the condition number of the tangent
kernel, is of a model that was not trained yet: `ntk.tangent_kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from remanent.core.catalogue import System
from remanent.core.displacement.scale import Scale
from remanent.core.selection import Selection
from remanent.core.weights import norm
from remanent.sharpness.active_neurons import ActiveNeurons, active_neurons
from remanent.sharpness.eigenvalues import Eigenvalues, eigenvalues
from remanent.sharpness.noisy_loss import NoisyLoss, noisy_loss
from remanent.sharpness.surface import LossSurface

SYSTEM = System(
    name="vit-sam",
    title="When vision transformers outperform ResNets: the loss geometry that SAM converges to",
    year=2021,
    arxiv="2106.01548",
    card="vit-sam",
    family="sharpness",
    reproduction="tests/reproductions/test_vit_sam.py",
    needs=("data",),
    views=("full", "lora"),
    notes="The training recipe is `SAM` with one rho for each model; the analysis code was never published, so solver, "
    "noise and the share of active neurons are as the card remembers them.",
)


@dataclass(frozen=True)
class Geometry:
    """What the loss looks like where a model is.

    Args:
        whole: largest eigenvalue over all weights, and the loss there.
        layers: of each layer's own block of the Hessian.
        noisy: the loss under noise.
        active: share of active neurons.
        weight_norm: L2 norm of the selected weights.
    """

    whole: Eigenvalues
    layers: Mapping[str, Eigenvalues]
    noisy: NoisyLoss
    active: ActiveNeurons
    weight_norm: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "geometry",
            "whole": self.whole.to_dict(),
            "layers": {name: item.to_dict() for name, item in self.layers.items()},
            "noisy": self.noisy.to_dict(),
            "active": self.active.to_dict(),
            "weight_norm": self.weight_norm,
        }


def geometry(
    surface: LossSurface,
    *,
    layers: Mapping[str, Selection] | None = None,
    sigma: float = 0.02,
    noise_scale: Scale = "none",
    draws: int = 10,
    steps: int = 30,
    before: str | None = None,
    seed: int = 0,
    on_batch: Callable[[], None] = lambda: None,
) -> Geometry:
    """The report of one model.

    Args:
        surface: model, batches, loss, weights and point.
        layers: name -> weights whose own block of the Hessian is looked at; none by default.
        sigma: of the Gaussian noise.
        noise_scale: its unit.
        draws: of the noise, at least 2.
        steps: of Lanczos.
        before: see `active_neurons`.
        seed: of the noise and of Lanczos' start.
        on_batch: called after each batch of each product and draw.

    Source: arXiv 2106.01548, section 4.
    """
    noisy = noisy_loss(surface, sigma, noise_scale, draws, seed=seed, on_batch=on_batch)
    with surface.entered() as weights:
        length = float(norm(weights.values()))
    return Geometry(
        eigenvalues(surface, steps=steps, seed=seed, on_batch=on_batch),
        {
            name: eigenvalues(surface.of(select), steps=steps, seed=seed, on_batch=on_batch)
            for name, select in (layers or {}).items()
        },
        noisy,
        active_neurons(surface, before, on_batch=on_batch),
        length,
    )
