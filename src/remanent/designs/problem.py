"""Designs with scores, as surrogates and searches see them: numbers and scores z-scored, categories one-hot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from remanent.errors import InputError


@dataclass(frozen=True)
class Problem:
    """Designs and their scores, normalized. A number, or a category of one value, that never changes is no input.

    Args:
        inputs: float32, (designs, inputs).
        scores: float32, (designs,): higher is better.
        blocks: slices of the inputs that are one category each, one-hot.
        center, scale: of each input; 0 and 1 in blocks.
        score_center, score_scale: of the scores.
        varying: bool, (numbers of a design,): which of them are inputs.
        first: float64, the first design, which has what never changes.
    """

    inputs: Tensor
    scores: Tensor
    blocks: tuple[slice, ...]
    center: Tensor
    scale: Tensor
    score_center: float
    score_scale: float
    varying: Tensor
    first: Tensor

    @classmethod
    def of(cls, designs: Tensor, scores: Tensor, blocks: Sequence[slice] = ()) -> Problem:
        """Normalize designs and scores.

        Args:
            designs: (designs, inputs).
            scores: (designs,), higher is better.
            blocks: slices of the inputs that are one category each, one-hot.

        Raises InputError for shapes that do not fit, fewer than 2 designs, numbers that are not finite, or designs or
        scores that are all the same.
        """
        if designs.dim() != 2 or scores.shape != designs.shape[:1]:
            found = f"designs {tuple(designs.shape)} and scores {tuple(scores.shape)}"
            raise InputError("designs", found, "(designs, inputs) and (designs,)")
        if len(designs) < 2:
            raise InputError("designs", len(designs), "at least 2 designs")
        for name, values in (("designs", designs), ("scores", scores)):
            if not bool(torch.isfinite(values).all()):
                raise InputError(name, "a number that is not finite", "finite numbers")
        designs, scores = designs.double(), scores.double()
        # Not by the standard deviation, which rounding keeps from 0.
        varying = designs.amin(dim=0) < designs.amax(dim=0)
        if scores.min() == scores.max():
            raise InputError("scores", f"{float(scores[0])} everywhere", "scores that differ")
        if not bool(varying.any()):
            raise InputError("designs", "all alike", "designs that differ")
        wide = [block for block in blocks if len(varying[block]) > 1]
        for block in wide:
            varying[block] = True  # a category that no design has is one all the same
        before = torch.cat([torch.zeros(1, dtype=torch.int64), varying.cumsum(dim=0)]).tolist()
        places = tuple(slice(before[block.start], before[block.stop]) for block in wide)
        inputs = designs[:, varying]
        center, scale = inputs.mean(dim=0), inputs.std(dim=0, correction=0)
        for place in places:
            center[place], scale[place] = 0.0, 1.0
        middle, spread = float(scores.mean()), float(scores.std(correction=0))
        normalized = ((inputs - center) / scale).float(), ((scores - middle) / spread).float()
        return cls(*normalized, places, center, scale, middle, spread, varying, designs[0].clone())

    def best(self, count: int) -> Tensor:
        """The inputs of the designs with the highest scores: (count, inputs)."""
        if not 1 <= count <= len(self.inputs):
            raise InputError("count", count, f"from 1 to {len(self.inputs)}, the designs that there are")
        return self.inputs[self.scores.topk(count).indices].clone()

    def snapped(self, inputs: Tensor) -> Tensor:
        """Each block's largest input to 1 and its others to 0."""
        inputs = inputs.clone()
        for block in self.blocks:
            part = inputs[:, block]
            inputs[:, block] = torch.nn.functional.one_hot(part.argmax(dim=1), part.shape[1]).to(part.dtype)
        return inputs

    def designs(self, inputs: Tensor) -> Tensor:
        """Inputs as designs in their units, float64, blocks one-hot."""
        found = self.first.repeat(len(inputs), 1)
        found[:, self.varying] = self.snapped(inputs).double() * self.scale + self.center
        return found

    def outside(self, inputs: Tensor) -> Tensor:
        """How many inputs of each design lie outside the range of the known ones: int64, (designs,)."""
        low, high = self.inputs.amin(dim=0), self.inputs.amax(dim=0)
        return ((inputs < low) | (inputs > high)).sum(dim=1)
