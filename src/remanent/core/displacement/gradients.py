"""The gradient of a loss where the weights are now, taken beside whatever `.grad` holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from remanent.core.displacement.base import Loss
from remanent.core.weights import Weights


def loss_and_gradients(weights: Weights, losses: Sequence[Loss]) -> tuple[float, dict[str, Tensor]]:
    """The sum of losses and its gradients; weights without one are absent. `.grad` is left as it was."""
    aside = {name: tensor.grad for name, tensor in weights.items()}
    for tensor in weights.values():
        tensor.grad = None
    total = 0.0
    try:
        with torch.enable_grad():
            for loss in losses:
                value = loss()
                value.backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
        return total, {name: tensor.grad for name, tensor in weights.items() if tensor.grad is not None}
    finally:
        for name, tensor in weights.items():
            tensor.grad = aside[name]
