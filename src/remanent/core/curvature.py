"""The Hessian of a loss times a vector, by differentiating its gradient a second time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from remanent.core.weights import Weights


def add_hessian_product(loss: Tensor, weights: Weights, vector: Mapping[str, Tensor]) -> None:
    """Add H v to `.grad` of the weights, H the Hessian of the loss over all of them together.

    Args:
        loss: a scalar with its graph, made inside `twice_differentiable`.
        weights: those that take a gradient.
        vector: name -> the entries of v; 0 where a name is missing.
    """
    tensors = list(weights.values())
    gradients = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True)
    along = [
        (gradient * vector[name]).sum()
        for name, gradient in zip(weights, gradients, strict=True)
        if gradient is not None and name in vector and gradient.requires_grad
    ]
    if along:
        torch.stack(along).sum().backward(inputs=tensors)  # type: ignore[no-untyped-call]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Inside, attention runs by the plain kernel: the fused ones have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
