"""A fine-tuned model with some of its matrices made sparse, or their update made sparse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from remanent.core.displacement import Context, Displacement
from remanent.core.displacement.noise import generator_of
from remanent.core.selection import Selection
from remanent.core.weights import Weights
from remanent.errors import InputError, did_you_mean
from remanent.sharpness.interpolation import check_same_weights

Mode = Literal["update", "weights", "update-random"]


@dataclass(frozen=True, eq=False)
class SparseUpdate(Displacement):
    """Of each selected matrix only a share of the entries keeps what fine-tuning gave it; vectors stay.

    "update" keeps the largest |w - before| and puts the others back to `before`, "update-random" keeps as many at
    random, "weights" keeps the largest |w| and puts the others to 0. Ties are all kept. A share of 1 changes nothing,
    bit for bit; of 0 it puts matrices back (or to 0). `apply(model)` stays there, and can be undone.

    Args:
        before: name -> weight before fine-tuning.
        keep: share of a matrix's entries, from 0 to 1.
        select: which weights; of these the matrices.
        mode: as above.
        seed: of "update-random".
    """

    before: Mapping[str, Tensor]
    keep: float
    select: Selection
    mode: Mode = "update"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise InputError("keep", self.keep, "a share from 0 to 1")
        if self.mode not in get_args(Mode):
            raise InputError("mode", self.mode, did_you_mean(self.mode, get_args(Mode)))

    def moving(self, weights: Weights) -> Weights:
        chosen = self.select.of(weights)
        matrices = weights.only(name for name, weight in chosen.items() if weight.dim() > 1)
        if self.mode != "weights":
            check_same_weights(matrices, self.before)
        return matrices

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        for name, weight in weights.items():
            there = torch.zeros_like(weight) if self.mode == "weights" else self.before[name].to(weight)
            weight.copy_(torch.where(self._kept(name, weight, there), weight, there))

    def _kept(self, name: str, weight: Tensor, there: Tensor) -> Tensor:
        count = math.ceil(self.keep * weight.numel())
        if count == 0:
            return torch.zeros_like(weight, dtype=torch.bool)
        if self.mode == "update-random":
            size = torch.rand(weight.shape, generator=generator_of(name, self.seed)).to(weight.device)
        else:
            size = (weight - there).abs()
        return size >= size.flatten().kthvalue(weight.numel() - count + 1).values

    def __str__(self) -> str:
        return f"sparse-{self.mode}-{self.keep:g}"
