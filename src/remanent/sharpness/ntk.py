"""The condition number of the neural tangent kernel: how unevenly training would learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from remanent.core.selection import EVERYTHING, Selection
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.sharpness.estimate import ALPHA, Estimate

_FEWEST = 3  # inputs of a jackknife


@dataclass(frozen=True)
class TangentKernel:
    """Eigenvalues of the kernel.

    Args:
        condition: the largest over the smallest; infinite where the smallest is 0 up to rounding. The ends are a
            jackknife's over inputs, on the log scale: how much hangs on single inputs. It grows with their number.
            None for two inputs: without either, one row is left, whose condition is always 1.
        eigenvalues: ascending.
        rows: rows of the kernel.
    """

    condition: Estimate
    eigenvalues: tuple[float, ...]
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "tangent-kernel",
            "condition": self.condition.to_dict(),
            "eigenvalues": list(self.eigenvalues),
            "rows": self.rows,
        }


def tangent_kernel(
    model: nn.Module,
    inputs: Tensor,
    *,
    every_output: bool = False,
    select: Selection = EVERYTHING,
    on_row: Callable[[], None] = lambda: None,
) -> TangentKernel:
    """J J^T of a model's outputs on some inputs, in float64 on a copy of the model, in eval mode.

    Args:
        model: inputs -> outputs (inputs, outputs); at initialization, as the paper has it, or trained.
        inputs: (inputs, ...), at least 2; two that are alike make the condition number infinite.
        every_output: a row for each output of each input; otherwise for the sum of each input's outputs.
        select: the weights that J is of.
        on_row: called after each row.

    Source: arXiv 2106.01548, section 4.1; how it treats several outputs is not known, hence the choice.
    """
    if len(inputs) < 2:
        raise InputError("inputs", len(inputs), "at least 2")
    wide = deepcopy(model).double().eval()
    weights = list(select.of(Weights.of(wide)).values())
    wide.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    rows, owners = [], []
    floating = inputs.is_floating_point()
    for place in range(len(inputs)):
        one = inputs[place : place + 1]
        outputs = wide(one.double() if floating else one).flatten()
        for output in outputs if every_output else (outputs.sum(),):
            gradients = torch.autograd.grad(output, weights, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        (torch.zeros_like(weight) if gradient is None else gradient).flatten()
                        for gradient, weight in zip(gradients, weights, strict=True)
                    ]
                )
            )
            owners.append(place)
            on_row()
    jacobian = torch.stack(rows)
    kernel, owner = jacobian @ jacobian.T, torch.tensor(owners, device=jacobian.device)
    values = torch.linalg.eigvalsh(kernel)
    without = [
        _condition(torch.linalg.eigvalsh(kernel[owner != place][:, owner != place])) for place in range(len(inputs))
    ]
    return TangentKernel(_jackknifed(_condition(values), without), tuple(map(float, values)), len(jacobian))


def _jackknifed(value: float, without: list[float]) -> Estimate:
    logs = [math.log(item) for item in without if math.isfinite(item) and item > 0]
    if not math.isfinite(value) or len(logs) < max(_FEWEST, len(without)):
        return Estimate(value)
    mean = sum(logs) / len(logs)
    error = math.sqrt((len(logs) - 1) / len(logs) * sum((item - mean) ** 2 for item in logs))
    reach = float(student.ppf(1 - ALPHA, len(logs) - 1)) * error
    return Estimate(value, value * math.exp(-reach), value * math.exp(reach))


def _condition(values: Tensor) -> float:
    smallest, largest = float(values[0]), float(values[-1])
    rounding = len(values) * torch.finfo(values.dtype).eps * largest
    return largest / smallest if smallest > rounding else float("inf")
