"""Inner products of several gradients, taken tensor by tensor: a (tasks, parameters) matrix is never made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from remanent.core.weights import sharded_on
from remanent.errors import UnsupportedError

RANK = torch.finfo(torch.float32).eps  # per task, of the largest square: what gradients in float32 leave of 0
_BLOCK = 1 << 16  # entries: small enough to stay in a CPU's cache


@torch.no_grad()
def gramian(parts: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """A_ij = <g_i, g_j> over all weights together: (tasks, tasks), float64, on the CPU.

    In float64, which autocast and TF32 leave alone. Memory beyond the gradients: one block of entries per task.

    Args:
        parts: of each task, name -> gradient; a weight that a task has none of counts as 0.

    Raises UnsupportedError for gradients that are sharded.
    """
    products = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    for name in dict.fromkeys(name for part in parts for name in part):
        tasks = [task for task, part in enumerate(parts) if name in part]
        gradients = [parts[task][name] for task in tasks]
        if any(sharded_on(gradient) for gradient in gradients):
            raise UnsupportedError(f"the gradient of {name} is sharded: inner products are of whole ones")
        total = torch.zeros(len(tasks), len(tasks), dtype=torch.float64, device=gradients[0].device)
        for blocks in zip(*(torch.split(gradient.reshape(-1), _BLOCK) for gradient in gradients), strict=True):
            rows = torch.stack([block.double() for block in blocks])
            total += rows @ rows.T
        index = torch.tensor(tasks)
        products[index[:, None], index] += total.cpu()
    return (products + products.T) / 2


@torch.no_grad()
def weighted_sum(parts: Sequence[Mapping[str, Tensor]], weights: Tensor) -> dict[str, Tensor]:
    """Name -> sum over tasks of weight times gradient, in the gradients' own dtype.

    Args:
        parts: of each task, name -> gradient.
        weights: (tasks,).
    """
    total: dict[str, Tensor] = {}
    for part, weight in zip(parts, weights.tolist(), strict=True):
        known = [name for name in part if name in total]
        if known:
            torch._foreach_add_([total[name] for name in known], [part[name] for name in known], alpha=weight)
        total |= {name: gradient * weight for name, gradient in part.items() if name not in total}
    return total


def conflict(products: Tensor) -> float:
    """Share of pairs of tasks whose gradients have an inner product below 0.

    Args:
        products: (tasks, tasks), at least 2 tasks.
    """
    first, second = torch.triu_indices(len(products), len(products), offset=1)
    return float((products[first, second] < 0).double().mean())
