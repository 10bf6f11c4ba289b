"""The loss of data as a function of a model's weights: what every measure of sharpness looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from remanent.core.batch import IGNORED, Batch
from remanent.core.displacement import Displacement, Here
from remanent.core.importance.losses import SampleLoss, class_nll
from remanent.core.model_inputs import logits_of
from remanent.core.modes import evaluating
from remanent.core.scores import answer_scores
from remanent.core.selection import EVERYTHING, Selection
from remanent.core.state import State
from remanent.core.weights import Weights, identity
from remanent.errors import InputError, UnsupportedError


@dataclass(frozen=True, eq=False)
class LossSurface:
    """The mean loss of batches over those weights that a selection names, at a point.

    Inside a measure the model is in eval mode; afterwards it is as it was, bit for bit.

    Args:
        model: any module.
        batches: what `loss` takes, on the model's device. Measures that are "m-sharpness" look at each by itself, so
            that their size is part of the definition.
        loss: (model, batch) -> one loss for each sample or token: `class_nll`, `token_nll`, or a function of your own.
        wrong: (model, batch) -> 1 where a sample is answered wrongly, else 0; None where errors are not asked for.
        select: the weights that are perturbed or differentiated, frozen ones too. `ADAPTERS` is a LoRA alone.
        at: the point: `Rounding("int4-row")` looks around the rounded model.
        units: batch -> of each loss, the number of the unit that bootstraps draw, the same in every batch:
            `token_record` where losses are of tokens; None where each loss is a unit.

    Raises:
        InputError: where there is no batch.
    """

    model: nn.Module
    batches: Sequence[Any]
    loss: SampleLoss = class_nll
    wrong: SampleLoss | None = None
    select: Selection = EVERYTHING
    at: Displacement = Here()  # noqa: RUF009  (frozen)
    units: Callable[[Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.batches) == 0:
            raise InputError("batches", "none", "at least one batch")

    def of(self, select: Selection) -> LossSurface:
        """The same loss over other weights."""
        return replace(self, select=select)

    @contextmanager
    def entered(self) -> Iterator[Weights]:
        """Inside, the model is at the point and in eval mode, and exactly the selected weights take a gradient.

        Raises InputError where nothing is selected, UnsupportedError for weights of 16 bits.
        """
        everything = Weights.of(self.model)
        weights = self.select.of(everything)
        for name, weight in weights.items():
            if weight.dtype in (torch.bfloat16, torch.float16):
                raise UnsupportedError(
                    f"{name} is of 16 bits, which swallow perturbations as small as those of a sharpness; "
                    "load the model in float32"
                )
        aside = State.of(everything, moved=everything.only(()), gradients_aside=True)
        with aside, evaluating(self.model), self.at.at(self.model, self.closures()), torch.enable_grad():
            wanted = {identity(weight) for weight in weights.values()}
            for parameter in self.model.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(identity(parameter) in wanted)
            yield weights

    def closures(self) -> list[Callable[[], Tensor]]:
        """One loss per batch, which add up to the mean over all batches, each counting alike."""

        def of(batch: Any) -> Callable[[], Tensor]:
            return lambda: self.loss(self.model, batch).mean() / len(self.batches)

        return [of(batch) for batch in self.batches]

    def mean_loss(self, batch: Any) -> Tensor:
        """The mean loss of a batch, with its graph."""
        return self.loss(self.model, batch).mean()

    @torch.no_grad()
    def losses(self, batch: Any) -> Tensor:
        """The losses of a batch: float64, on the CPU."""
        return self.loss(self.model, batch).double().cpu()

    def unit_of_losses(self) -> NDArray[np.int64] | None:
        """The unit of each loss of all batches, in their order; None where each is its own."""
        if self.units is None:
            return None
        found: NDArray[np.int64] = torch.cat([self.units(batch).cpu() for batch in self.batches]).numpy()
        return found

    @torch.no_grad()
    def error(self, batch: Any) -> float:
        """The share of a batch that is answered wrongly; NaN where errors are not asked for."""
        return float("nan") if self.wrong is None else float(self.wrong(self.model, batch).double().mean())


ADAPTERS = Selection(kinds=("adapter",))


def class_wrong(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """1 for each sample whose most likely class is not its label: (samples,). `batch`: inputs and int64 labels."""
    inputs, labels = batch
    wrong: Tensor = logits_of(model(inputs)).argmax(dim=-1) != labels
    return wrong.float()


def token_wrong(model: nn.Module, batch: Batch) -> Tensor:
    """1 for each scored token of a batch that is not the most likely: (tokens,)."""
    return 1 - answer_scores(model, batch).hits.float()


def token_record(batch: Batch) -> Tensor:
    """The record of each scored token of a batch, by its index in the set: int64, (tokens,)."""
    return batch.records[(batch.labels[:, 1:] != IGNORED).nonzero()[:, 0]]
