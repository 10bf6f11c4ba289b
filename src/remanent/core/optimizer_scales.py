"""What an adaptive optimizer multiplies each entry of a gradient with: the metric that its steps are taken in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from remanent.core.weights import Weights
from remanent.errors import UnsupportedError

# As torch names the second moment, and bitsandbytes.
_MOMENTS = ("max_exp_avg_sq", "exp_avg_sq", "state2")


class StepScales(Mapping[str, Tensor]):
    """Name -> 1 / (sqrt(v / (1 - beta2^t)) + eps) in float32, of the shape of the weight.

    Made anew at each look, from the state as it is then: all of them at once would be another copy of the weights.
    """

    def __init__(self, of: Mapping[str, tuple[Tensor, float, float]]) -> None:
        self._of = of  # v, 1 - beta2^t, eps

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        moment, correction, epsilon = self._of[name]
        return moment.float().div(correction).sqrt_().add_(epsilon).reciprocal_()

    def __contains__(self, name: object) -> bool:
        return name in self._of

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


def step_scales(optimizer: Any, weights: Weights) -> StepScales:
    """What the optimizer multiplies each entry of a gradient with, as its state is now.

    Weights without a state are left out: all of them before the first step, and under an optimizer without betas,
    whose metric is the plain one.

    Args:
        optimizer: Adam, AdamW or what keeps their state under the same names; an optimizer that wraps it as
            `.optimizer` is looked into.
        weights: whose scales are wanted; those that the optimizer does not move are left out.

    Raises:
        UnsupportedError: where there are betas and no second moment entry by entry: quantized, factored, or none.
    """
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    found: dict[str, tuple[Tensor, float, float]] = {}
    for name, weight in weights.items():
        state, group = optimizer.state.get(weight), groups.get(id(weight))
        if not state or group is None or "betas" not in group:
            continue
        moment = next((state[key] for key in _MOMENTS if key in state), None)
        if moment is None or moment.shape != weight.shape or not moment.is_floating_point():
            raise UnsupportedError(
                f"{type(optimizer).__name__} keeps no second moment of {name}, entry by entry, that could be read; "
                "use torch.optim.AdamW"
            )
        # A step is a tensor, or a number.
        found[name] = moment, 1 - group["betas"][1] ** float(state["step"]), group["eps"]
    return StepScales(found)
