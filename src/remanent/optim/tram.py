"""TRAM: SAM whose radius is how far the predictions lie from those at another point, so that no radius is tuned.

e = d * T^2 g / ||T g||, T = |w| + eta, d a distance between predictions (`optim.trust_region`); the base optimizer
steps at w with the gradient at w + e.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent
from remanent.core.weights import Weights, sharded_on
from remanent.errors import InputError
from remanent.optim.two_pass import Closure, Perturbation, TwoPass, group_of

SYSTEM = System(
    name="tram",
    title="Trust-region-aware minimization: SAM whose radius is a distance between predictions",
    year=2023,
    arxiv="2310.03646",
    card="tram",
    family="optim",
    reproduction="tests/reproductions/test_tram.py",
    notes="The paper's ascent, d T^2 g / ||T g||; the published code leaves the gradient out of it, and divides d by "
    "batch, classes and tokens once more than equation 4. d is a mean over positions of the KL summed over classes.",
)

_DISTANCE = "distance"


class TRAM(TwoPass):
    """Trust-region-aware minimization round a base optimizer.

    `step(closure)` runs the closure at w, asks the distance d, and runs the closure at w + e. Nothing of d is
    differentiated. A d of 0 moves nothing; one that is not finite neither, and is counted in `without_ascent`. `radius`
    is the last d. A scale of 0 is the base optimizer, in one pass, and d is not asked.

    Everything else is as `SAM` has it: groups (each with its own `scale` and `eta`), accumulation, mixed precision,
    clipping, several processes, `state_dict`, which holds the distance's own state too.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer: `torch.optim.AdamW`, for example. Called with the groups and `options`.
        distance: returns d, at least 0, for the batch of the first pass, with the weights at w: `PreviousWeights`,
            `InitialWeights` or `NoisedInputs` of the model, or any callable without arguments. Where it has
            `watching()`, the first pass runs inside that block.
        scale: multiplies d, at least 0.
        eta: added to |w|, at least 0. With the paper's 0 a weight that is 0 does not move.
        model: as `SAM` has it, like the three below.
        perturbation: under "replica" d is each process's own, otherwise the mean.
        same_masks: both passes draw the same random numbers.
        max_grad_norm: of the gradient that the base optimizer takes.
        options: of the base optimizer.

    Raises InputError for a value out of range.

    Source: arXiv 2310.03646, Algorithm 1, equations 4 to 6.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        distance: Callable[[], Tensor | float],
        scale: float = 1.0,
        eta: float = 0.0,
        model: nn.Module | None = None,
        perturbation: Perturbation = "replica",
        same_masks: bool = True,
        max_grad_norm: float | None = None,
        **options: Any,
    ) -> None:
        if not callable(distance):
            raise InputError("distance", distance, "a callable, such as NoisedInputs(model)")
        self.distance, self.radius, self.without_ascent = distance, 0.0, 0
        super().__init__(
            params,
            base,
            {"scale": scale, "eta": eta},
            model=model,
            perturbation=perturbation,
            same_masks=same_masks,
            max_grad_norm=max_grad_norm,
            options=options,
        )
        if any(weight.dtype in (torch.bfloat16, torch.float16) for weight in self._weights().values()):
            text = "weights in 16 bits swallow most of the ascent; keep them in float32 under autocast"
            warnings.warn(text, stacklevel=2)

    def gradients(self, closure: Closure, scaler: GradScaler | None = None, *, ascent: Closure | None = None) -> Tensor:
        first = closure if ascent is None else ascent
        watching = getattr(self.distance, "watching", None)
        if watching is None:
            return super().gradients(closure, scaler, ascent=ascent)

        def watched() -> Tensor:
            with watching():
                return first()

        with torch.compiler.set_stance("force_eager"):  # as the first pass, or `same_masks` would not hold
            return super().gradients(closure, scaler, ascent=watched)

    @torch.no_grad()
    def first_step(self, scaler: GradScaler | None = None) -> bool:
        """Ask d, move to w + e by the gradient at w that is in `.grad`, and clear it.

        The forward passes at w must have been inside `distance.watching()`, where it has that.
        """
        self._refuse_displaced()
        if self._plan() == "both":
            self.radius = self._measured()
        return super().first_step(scaler)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's, its groups with `scale` and `eta`, and the distance's. Raises between the passes."""
        own = self.distance.state_dict() if hasattr(self.distance, "state_dict") else {}
        return {**super().state_dict(), _DISTANCE: own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; of a plain base optimizer's too. Raises between the passes."""
        given = dict(state_dict)
        own = given.pop(_DISTANCE, {})
        super().load_state_dict(given)
        if own and hasattr(self.distance, "load_state_dict"):
            self.distance.load_state_dict(own)

    def _plan(self) -> Any:
        return "here" if all(group["scale"] == 0 for group in self.param_groups) else "both"

    def _ascents(self) -> list[Ascent]:
        for group in self.param_groups:
            if not 0 <= group["scale"] < math.inf:
                raise InputError("scale", group["scale"], "a finite number of at least 0")
        return [Ascent(self.radius * group["scale"], adaptive=True, eta=group["eta"]) for group in self.param_groups]

    def _moving(self, weights: Weights, gradients: Mapping[str, Tensor]) -> list[str]:
        # Also where d is 0: of what moves nothing, running statistics would be those of both passes.
        return [name for name in gradients if self.param_groups[group_of(name)]["scale"] > 0]

    def _measured(self) -> float:
        found = torch.as_tensor(self.distance(), dtype=torch.float32).detach()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            weights = list(self._weights().values())
            if self.perturbation == "global" or any(sharded_on(weight) for weight in weights):
                found = found.to(weights[0].device)
                torch.distributed.all_reduce(found)
                found /= torch.distributed.get_world_size()
        if not math.isfinite(found):
            self.without_ascent += 1
            return 0.0
        return max(0.0, float(found))  # rounding leaves a divergence of equals a little below 0
