"""The condition number of the neural tangent kernel: how unevenly training would learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from remanent.core.estimate import Estimate
from remanent.core.importance.losses import SampleLoss
from remanent.core.importance.measure import records_of
from remanent.core.selection import EVERYTHING, Selection
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.sharpness.estimate import ALPHA
from remanent.sharpness.surface import LossSurface

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
    rows: list[list[Tensor]] = []
    owners = []
    floating = inputs.is_floating_point()
    for place in range(len(inputs)):
        one = inputs[place : place + 1]
        outputs = wide(one.double() if floating else one).flatten()
        for output in outputs if every_output else (outputs.sum(),):
            rows.append(_gradient(output, weights))
            owners.append(place)
            on_row()
    return _kernel(rows, torch.tensor(owners))


def tangent_kernel_of_losses(
    surface: LossSurface, loss: SampleLoss | None = None, *, on_row: Callable[[], None] = lambda: None
) -> TangentKernel:
    """J J^T of the losses of the first batch's records, where a model's outputs are too many to be rows.

    Gradients are in the weights' precision and kept until the end, a copy of the selected weights for each record;
    their products are in float64.

    Args:
        surface: model, batches, weights and point; the first batch has at least 2 records.
        loss: (model, batch) -> one for each record, such as `mean_answer_nll` of a language model; the surface's own
            by default.
        on_row: called after each record.

    Raises:
        InputError: where the batch has one record, or the losses are not one for each, as `token_nll`'s are not.
    """
    with surface.entered() as weights:
        records = records_of(surface.batches[0])
        if records < 2:
            raise InputError("batches", "a first batch of one record", "at least 2 in it")
        losses = (loss or surface.loss)(surface.model, surface.batches[0])
        if losses.shape != (records,):
            raise InputError(
                "loss",
                f"losses {tuple(losses.shape)} of {records} records",
                "one for each record, as of mean_answer_nll",
            )
        rows = []
        for value in losses:
            rows.append(_gradient(value, list(weights.values())))
            on_row()
    return _kernel(rows, torch.arange(len(rows)))


def _gradient(output: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(output, weights, retain_graph=True, allow_unused=True)
    return [
        (torch.zeros_like(weight) if gradient is None else gradient).flatten()
        for gradient, weight in zip(found, weights, strict=True)
    ]


def _kernel(rows: Sequence[Sequence[Tensor]], owner: Tensor) -> TangentKernel:
    """From gradients, row by row and weight by weight, and the input that each row is of."""
    kernel = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for of_weight in zip(*rows, strict=True):
        part = torch.stack(of_weight).double()
        kernel += (part @ part.T).cpu()
    precision = torch.finfo(rows[0][0].dtype).eps

    def spectrum(of: Tensor) -> tuple[float, Tensor]:
        values = torch.linalg.eigvalsh(kernel[of][:, of])
        return _condition(values, precision), values

    condition, values = spectrum(owner >= 0)
    without = [spectrum(owner != place)[0] for place in range(int(owner.max()) + 1)]
    return TangentKernel(_jackknifed(condition, without), tuple(map(float, values)), len(rows))


def _jackknifed(value: float, without: list[float]) -> Estimate:
    logs = [math.log(item) for item in without if math.isfinite(item) and item > 0]
    if not math.isfinite(value) or len(logs) < max(_FEWEST, len(without)):
        return Estimate(value)
    mean = sum(logs) / len(logs)
    error = math.sqrt((len(logs) - 1) / len(logs) * sum((item - mean) ** 2 for item in logs))
    reach = float(student.ppf(1 - ALPHA, len(logs) - 1)) * error
    return Estimate(value, value * math.exp(-reach), value * math.exp(reach))


def _condition(values: Tensor, precision: float) -> float:
    smallest, largest = float(values[0]), float(values[-1])
    rounding = len(values) * precision * largest
    return largest / smallest if smallest > rounding else float("inf")
