"""The weights after quantization: rounded to a format and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from remanent.core.displacement.base import Context, Displacement
from remanent.core.displacement.combined import OneOf
from remanent.core.packed import is_packed, layers_under_lora, lora_delta, merged_forward
from remanent.core.quantization import QuantizationFormat, clipped, round_to
from remanent.core.selection import EVERYTHING, LINEARS, Selection
from remanent.core.weights import Weights, local, sharded_on
from remanent.errors import InputError, UnsupportedError

View = Literal["merged", "adapter"]
_ADAPTERS = Selection(kinds=("adapter",))


@dataclass(frozen=True)
class Rounding(Displacement):
    """Weights rounded to a format, computed in float32 and stored back in their own dtype.

    The gradient is straight-through: the gradient at the rounded weight is used at the weight itself, except where
    a percentile clip cut the weight off, where it is zero.

    With a LoRA, the merged view moves the base weight to Q(W + d) - d, d = scaling * B A, so that base plus adapter
    lands on the grid (to the precision of the base's dtype) and the adapters keep their gradients; adapter dropout
    is off inside. On a packed NF4 base the layer's forward is overridden instead. The adapter view rounds A and B
    each and leaves the base.

    Args:
        format: for example "int8", "int4" (short for "int4-row"), "int4-g32", "nf4", "bf16"; see QuantizationFormat.
        view: "merged" or "adapter".
        select: which weights; None is every linear layer inside the model but not embeddings, head or adapters, and
            for "bf16" and "fp16" every parameter. A mixture's experts in one tensor, which it must name, are rounded
            each as the matrix of a layer.

    Source: DurableUn, arXiv 2605.02196 (quantize-dequantize and straight-through forward).
    """

    format: QuantizationFormat | str
    view: View = "merged"
    select: Selection | None = None

    def __post_init__(self) -> None:
        if isinstance(self.format, str):
            object.__setattr__(self, "format", QuantizationFormat.parse(self.format))
        if self.view not in ("merged", "adapter"):
            raise InputError("view", self.view, "'merged' or 'adapter'")

    @property
    def quantization(self) -> QuantizationFormat:
        """The format, parsed."""
        assert isinstance(self.format, QuantizationFormat)
        return self.format

    @property
    def local(self) -> bool:
        return True

    @property
    def _by_rows(self) -> bool:
        """Whether it matters which dimension holds the rows."""
        return self.quantization.granularity not in ("tensor", "element")

    @property
    def pulls_back_by_weight(self) -> bool:
        return self.quantization.clips

    def moving(self, weights: Weights) -> Weights:
        if self.view == "adapter":
            return (self.select or _ADAPTERS).of(weights)
        if self.select is None and self.quantization.granularity != "element":
            refuse_fused_experts(weights)
        select = self.select or (EVERYTHING if self.quantization.granularity == "element" else LINEARS)
        if weights.model is None:
            return select.of(weights)
        # What sits under a LoRA is moved with it, packed or not; a packed base has no floating-point weight to list.
        chosen = weights.only(name for name in weights if select.matches(name, weights.kind(name)))
        if not chosen and not any(is_packed(layer) for layer in layers_under_lora(weights.model).values()):
            select.of(weights)
        return chosen

    def pulls_back(self, weights: Weights) -> Weights:
        moved = self.moving(weights)
        if self.view == "adapter" or not self.quantization.clips:
            return moved
        for name in moved:
            if self.quantization.granularity != "element" and weights.of_experts(name):
                raise UnsupportedError(
                    f"{self} masks what its clip cuts off, and {name} holds the matrices of several experts, which are "
                    "clipped each; learn at a format without a clip"
                )
            if self._by_rows and weights.transposed(name):
                raise UnsupportedError(
                    f"{self} masks what its clip cuts off, row by row, and {name} keeps its rows in columns (Conv1D); "
                    "learn at a format without a clip"
                )
        # What is clipped of a merged weight is clipped of the adapters' sum.
        return weights.only(name for name in weights if name in moved or weights.kind(name) == "adapter")

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        layers = context.once(self._entered)
        for name, weight in weights.items():
            transposed = self._by_rows and weights.transposed(name)
            several = weights.of_experts(name)
            part = self._rows(name, weight, int(transposed and not several))
            part = part.mT if transposed else part
            owner = weights.owner(name)
            above = None if owner is None else layers.get(owner)
            if above is None:
                for matrix in part if several else (part,):  # experts are rounded each as the matrix of a layer
                    matrix.copy_(self._round(matrix))
                continue
            delta = lora_delta(above).to(weight.dtype)
            delta = delta.T if transposed else delta
            part.copy_(self._round(part.float() + delta.float()) - delta.float())

    def _entered(self, context: Context) -> dict[nn.Module, nn.Module]:
        """Look through the model and install what is not a matter of weights; base layer -> the LoRA layer round it."""
        if context.model is None or self.view == "adapter":
            return {}
        layers = {} if self.quantization.granularity == "element" else layers_under_lora(context.model)
        for layer in layers.values():
            for dropout in getattr(layer, "lora_dropout", {}).values():
                dropout.training = False
            if is_packed(layer):
                context.passing = True
                context.cleanup.enter_context(merged_forward(layer, self._round, self._clipped))
        _refuse_packed(context.model, under_lora=layers)
        return layers

    def pullback(self, name: str, gradient: Tensor, weight: Tensor) -> Tensor:
        if not self.quantization.clips:
            return gradient
        if self.view == "merged" and any(part.startswith("lora_") for part in name.split(".")):
            if self.quantization.percentile is None:
                return gradient
            raise UnsupportedError(
                f"{self} masks what its percentile clip cuts off, which a LoRA's factors cannot express; learn at a "
                "format without a clip, or in the adapter view"
            )
        return gradient.masked_fill(self._clipped(local(weight)), 0.0)

    def _clipped(self, weight: Tensor) -> Tensor:
        return clipped(weight, self.quantization)

    def _round(self, weight: Tensor) -> Tensor:
        return round_to(weight, self.quantization)

    def _rows(self, name: str, weight: Tensor, along: int) -> Tensor:
        dimensions = sharded_on(weight)
        if dimensions and (dimensions != (along,) or not self.quantization.local_to_rows):
            raise UnsupportedError(
                f"{name} is sharded on dimension {dimensions}; {self.quantization} needs whole "
                + (f"rows, so shard on dimension {along}" if self.quantization.local_to_rows else "tensors")
            )
        return local(weight)

    def __str__(self) -> str:
        return str(self.format) + ("-adapter" if self.view == "adapter" else "")


def roundings_in_turn(formats: str) -> OneOf:
    """Another rounding at each update: of the formats, separated by commas, in turn."""
    return OneOf(*(Rounding(name.strip()) for name in formats.split(",")))


def refuse_fused_experts(weights: Weights) -> None:
    """Raise UnsupportedError where a mixture keeps its experts in one tensor, which is no linear layer's."""
    # Left alone they would be most of a mixture's weights, at full precision, under the name of 4 bits.
    for name in weights:
        if weights.of_experts(name):
            raise UnsupportedError(
                f"{name} holds several experts in one tensor, which is no linear layer's weight; name what is to be "
                "moved by `select`"
            )


def _refuse_packed(model: nn.Module, under_lora: Mapping[nn.Module, nn.Module]) -> None:
    for name, module in model.named_modules():
        if is_packed(module) and module not in under_lora and module not in under_lora.values():
            raise UnsupportedError(
                f"{name or type(module).__name__} holds packed weights, which rounding cannot move; load the model "
                "in bf16 or float32, or put a LoRA on every packed layer and use its merged view"
            )
