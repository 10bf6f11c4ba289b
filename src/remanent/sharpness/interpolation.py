"""The straight path between two models: losses and errors along it, its barrier, and what WiSE-FT gains on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from remanent.core.displacement import Interpolation
from remanent.core.estimate import Estimate
from remanent.core.modes import evaluating
from remanent.core.state import State
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.sharpness.estimate import Array, bootstrapped, over_batches
from remanent.sharpness.surface import LossSurface

# As wise-ft: the weight of the fine-tuned model, from 0, the other model, to 1.
GRID = tuple(number / 10 for number in range(11))
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Path:
    """What lies between two models, for one set of data.

    Args:
        weights_of_model: a at each point: (1 - a) * other + a * model. The paper's own alpha is 1 - a.
        losses: mean loss at each, with Student's interval over batches.
        errors: share answered wrongly at each; None where it was not asked for.
        samples: loss of every sample at every point: (samples, points).
        wrong: 1 where a sample is answered wrongly: (samples, points); None as above.
        units: of each sample, the unit that bootstraps draw: (samples,); None where each is its own.
    """

    weights_of_model: tuple[float, ...]
    losses: tuple[Estimate, ...]
    errors: tuple[Estimate, ...] | None
    samples: Array
    wrong: Array | None
    units: NDArray[np.int64] | None = None

    def barrier(self, of: str = "loss") -> Estimate:
        """How far the path rises above the straight line between its ends, at most; with a bootstrap over units.

        Args:
            of: "loss", in nats, or "error", a share.
        """
        at = np.array(self.weights_of_model)

        def height(samples: Array) -> float:
            found = samples.mean(axis=0)
            line = found[0] + (at - at[0]) / (at[-1] - at[0]) * (found[-1] - found[0])
            return float(np.maximum(found - line - _ROUNDING, 0.0).max())

        return bootstrapped(height, self._of(of), self.units)

    def gain(self) -> Estimate:
        """Accuracy gained on the path over the better end: the best point's minus that of the better end.

        0 where no point is better than both ends: out of distribution that is the failure mode of robust fine-tuning.
        A maximum over points is optimistic; its bootstrap over units does not correct that.
        """

        def gained(samples: Array) -> float:
            right = 1 - samples.mean(axis=0)
            return float(right.max() - max(right[0], right[-1]))

        return bootstrapped(gained, self._of("error"), self.units)

    def _of(self, of: str) -> Array:
        if of not in ("loss", "error"):
            raise InputError("of", of, "'loss' or 'error'")
        if of == "error" and self.wrong is None:
            raise InputError("wrong", None, "a function that says which samples are answered wrongly")
        found = self.samples if of == "loss" else self.wrong
        assert found is not None
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: without the single samples."""
        return {
            "measure": "path",
            "weights_of_model": list(self.weights_of_model),
            "losses": [item.to_dict() for item in self.losses],
            "errors": None if self.errors is None else [item.to_dict() for item in self.errors],
            "barrier": self.barrier().to_dict(),
            "error_barrier": None if self.wrong is None else self.barrier("error").to_dict(),
            "gain": None if self.wrong is None else self.gain().to_dict(),
        }


def path(
    surface: LossSurface,
    other: Mapping[str, Tensor],
    weights_of_model: Sequence[float] = GRID,
    *,
    on_point: Callable[[], None] = lambda: None,
) -> Path:
    """Losses on the straight line from another model (0) to the surface's (1), in float32; both ends are met exactly.

    The surface's point is entered at each place of the path: with `Rounding` the interpolated model is rounded.
    Where the model has batch norms, their running statistics are taken anew at each place from the surface's own
    inputs, since those of either end are wrong in between.

    Args:
        surface: of the fine-tuned model. Its selection says which weights move; the others stay the model's.
        other: name -> weight of the other model (before fine-tuning, zero-shot): `weights_of(module)`.
        weights_of_model: ascending, with 0 first and 1 last.
        on_point: called after each.

    Raises:
        InputError: where the other model lacks a weight or its shape differs, or the grid does not go from 0 to 1.
    """
    at = tuple(weights_of_model)
    if len(at) < 2 or at[0] != 0 or at[-1] != 1 or list(at) != sorted(set(at)):
        raise InputError("weights_of_model", at, "numbers that ascend from 0 to 1")
    everything = Weights.of(surface.model)
    moving = surface.select.of(everything)
    check_same_weights(moving, other)
    losses, wrong = [], []
    for share in at:
        with ExitStack() as stack:
            stack.enter_context(Interpolation(other, 1 - share).at(moving))
            if has_batch_norm(surface.model):
                stack.enter_context(State.of(everything, moved=everything.only(()), gradients_aside=True))
                take_statistics(surface)
            stack.enter_context(surface.entered())
            losses.append([surface.losses(batch) for batch in surface.batches])
            if surface.wrong is not None:
                with torch.no_grad():
                    wrong.append([surface.wrong(surface.model, batch).double().cpu() for batch in surface.batches])
        on_point()
    return Path(
        at,
        tuple(map(_estimate, losses)),
        tuple(map(_estimate, wrong)) if wrong else None,
        stacked(losses),
        stacked(wrong) if wrong else None,
        surface.unit_of_losses(),
    )


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights by name, as `path` takes them."""
    return {name: weight.detach().clone() for name, weight in Weights.of(model).items()}


def check_same_weights(weights: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Raise InputError that names the first weight that the other model lacks or has in another shape."""
    for name, weight in weights.items():
        there = other.get(name)
        if there is None or there.shape != weight.shape:
            found = "nothing of that name" if there is None else f"shape {tuple(there.shape)}"
            raise InputError("other", f"{name}: {found}", f"a model with {name} of shape {tuple(weight.shape)}")


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model keeps running statistics."""
    return any(getattr(module, "running_mean", None) is not None for module in model.modules())


@torch.no_grad()
def take_statistics(surface: LossSurface) -> None:
    """Running statistics of batch norms as the mean over the surface's batches; they stay so."""
    norms = [module for module in surface.model.modules() if getattr(module, "running_mean", None) is not None]
    before = [(module, module.momentum) for module in norms]
    with evaluating(surface.model):
        for module in norms:
            module.reset_running_stats()  # type: ignore[operator]
            module.momentum = None  # type: ignore[assignment]
            module.train()
        try:
            for batch in surface.batches:
                surface.loss(surface.model, batch)
        finally:
            for module, momentum in before:
                module.momentum = momentum


def _estimate(batches: Sequence[Tensor]) -> Estimate:
    return over_batches([float(values.sum()) for values in batches], [len(values) for values in batches])


def stacked(points: Sequence[Sequence[Tensor]]) -> Array:
    """Values of batches at each point as (samples, points)."""
    return np.stack([torch.cat(list(batches)).numpy() for batches in points], axis=1)
