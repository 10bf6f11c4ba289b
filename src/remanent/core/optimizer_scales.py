"""What an adaptive optimizer multiplies each entry of a gradient with: the metric that its steps are taken in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from remanent.core.weights import Weights
from remanent.errors import UnsupportedError

# As torch names the second moment, and bitsandbytes.
_MOMENTS = ("max_exp_avg_sq", "exp_avg_sq", "state2")


@torch.no_grad()
def step_scales(optimizer: Any, weights: Weights) -> dict[str, Tensor]:
    """Name -> 1 / (sqrt(v / (1 - beta2^t)) + eps) in float32, of the shape of the weight, from the state as it is now.

    Weights without a state are left out: all of them before the first step, and under an optimizer without second
    moments, whose metric is the plain one.

    Args:
        optimizer: Adam, AdamW or what keeps their state under the same names; an optimizer that wraps it as
            `.optimizer` is looked into.
        weights: whose scales are wanted; those that the optimizer does not move are left out.

    Raises:
        UnsupportedError: where the second moment is quantized, or factored.
    """
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    found: dict[str, Tensor] = {}
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
        correction = 1 - group["betas"][1] ** float(state["step"])
        found[name] = moment.float().div(correction).sqrt_().add_(group["eps"]).reciprocal_()
    return found
