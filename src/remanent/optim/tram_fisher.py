"""TRAM-Fisher: SAM in the metric of the Fisher information of noised inputs.

e = rho * F^-1 g / sqrt(g^T F^-1 g), with 1 / F taken as 1 / (1 + eta * F); g the gradient of the loss at w, F the
squares of its gradient for the batch with noise on the input, elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent, Here
from remanent.core.model_inputs import unwrapped
from remanent.core.weights import Weights, norm
from remanent.errors import InputError, UnsupportedError
from remanent.optim.trust_region import NoisedInputs
from remanent.optim.two_pass import Closure, Perturbation, TwoPass, gradients_of, group_of

SYSTEM = System(
    name="tram-fisher",
    title="TRAM-Fisher: sharpness-aware minimization in the Fisher metric of noised inputs",
    year=2023,
    arxiv="2310.03646",
    card="tram",
    family="optim",
    reproduction="tests/reproductions/test_tram.py",
    notes="The root, rho and 1 / (1 + eta F) are FSAM's (arXiv 2206.04920), since the paper's text does not give them "
    "and its code does not hold this variant. F is of the batch's mean gradient, as in FSAM.",
)

_NOISE = "noise"
_TINY = 1e-12


class TRAMFisher(TwoPass):
    """TRAM-Fisher round a base optimizer.

    `step(closure)` runs the closure at w with noise on the model's input, at w, and at w + e: three forward and
    backward passes, and a copy of the gradient besides SAM's copy of the weights. The noised pass leaves nothing in
    buffers and generators. A rho of 0 is the base optimizer, in one pass.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer. Called with the groups and `options`.
        model: the model; under DistributedDataParallel the wrapped one.
        rho: gamma: the length of e in the metric F, at least 0.
        eta: how much the Fisher information counts, at least 0; with 0 this is SAM.
        sigma: standard deviation of the noise on the input, or on its embeddings, at least 0; with 0 this is FSAM.
        seed: of the noise.
        perturbation: as `SAM` has it, like the two below.
        same_masks: both passes draw the same random numbers.
        max_grad_norm: of the gradient that the base optimizer takes.
        options: of the base optimizer.

    Raises InputError for a value out of range.

    Source: arXiv 2310.03646, section 3; FSAM, arXiv 2206.04920, equations 8 and 9.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        model: nn.Module,
        rho: float = 0.1,
        eta: float = 0.1,
        sigma: float = 0.1,
        seed: int = 0,
        perturbation: Perturbation = "replica",
        same_masks: bool = True,
        max_grad_norm: float | None = None,
        **options: Any,
    ) -> None:
        self._noise = NoisedInputs(model, sigma, seed=seed)
        self._squares: dict[str, Tensor] = {}
        super().__init__(
            params,
            base,
            {"rho": rho, "eta": eta},
            model=model,
            perturbation=perturbation,
            same_masks=same_masks,
            max_grad_norm=max_grad_norm,
            options=options,
        )

    def gradients(self, closure: Closure, scaler: GradScaler | None = None, *, ascent: Closure | None = None) -> Tensor:
        first = closure if ascent is None else ascent

        def noised_and_plain() -> Tensor:
            scale = 1.0 if scaler is None else scaler.get_scale()
            with Here().at(unwrapped(self._noise.model)), self._noise.noised(), torch.enable_grad():
                first()
                found = gradients_of(self._weights())
                self._squares = {name: (gradient / scale).square() for name, gradient in found.items()}
            return first()

        return super().gradients(closure, scaler, ascent=noised_and_plain)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's, its groups with `rho` and `eta`, and the noise's. Raises between the passes."""
        return {**super().state_dict(), _NOISE: self._noise.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; of a plain base optimizer's too. Raises between the passes."""
        given = dict(state_dict)
        own = given.pop(_NOISE, None)
        super().load_state_dict(given)
        if own is not None:
            self._noise.load_state_dict(own)

    def _ascents(self) -> list[Ascent]:
        for group in self.param_groups:
            for name in ("rho", "eta"):
                if not 0 <= group[name] < math.inf:
                    raise InputError(name, group[name], "a finite number of at least 0")
        return [Ascent(group["rho"]) for group in self.param_groups]

    def _displace(self, weights: Weights, gradients: Mapping[str, Tensor]) -> float:
        squares, self._squares = self._squares, {}
        if squares.keys() != gradients.keys():
            raise UnsupportedError("the Fisher information is of a pass with noise, which only step(closure) makes")
        groups = {name: self.param_groups[group_of(name)] for name in gradients}
        metric = {name: 1 + groups[name]["eta"] * squares[name] for name in gradients}
        length = float(norm(gradient / metric[name].sqrt() for name, gradient in gradients.items()))
        if length == 0 or not math.isfinite(length):
            return length
        for name in self._moving(weights, gradients):
            step = groups[name]["rho"] / (length + _TINY)
            weights[name].addcdiv_(gradients[name], metric[name], value=step)
        return length
