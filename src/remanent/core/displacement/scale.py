"""In what a perturbation of a weight is measured: absolutely, or in sizes of its tensor, its row or itself."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from remanent.core.weights import Weights
from remanent.errors import InputError, did_you_mean

# "none": 1. "tensor": root mean square of the tensor. "row": of each row (an output neuron, a filter); a tensor of one
# dimension is one row. "element": |w|, which is 0 where the weight is, so that it cannot move.
Scale = Literal["none", "tensor", "row", "element"]


def check_scale(scale: str) -> None:
    """Raise InputError for a scale that is not known."""
    if scale not in get_args(Scale):
        raise InputError("scale", scale, did_you_mean(scale, get_args(Scale)))


def scale_of(weights: Weights, name: str, scale: Scale) -> Tensor:
    """The unit in which a perturbation of a weight is measured: a tensor that broadcasts to it, at least float32."""
    weight = weights[name].detach()
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if scale == "none":
        return torch.ones((), dtype=wide.dtype, device=wide.device)
    if scale == "element":
        return wide.abs()
    if scale == "row" and wide.dim() > 1:
        return wide.square().mean(dim=weights.within_rows(name), keepdim=True).sqrt()
    return wide.square().mean().sqrt()
