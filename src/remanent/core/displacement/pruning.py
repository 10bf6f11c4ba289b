"""The weights with the smallest of them set to zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from remanent.core.displacement.base import Context, Displacement
from remanent.core.displacement.rounding import refuse_fused_experts
from remanent.core.packed import is_packed, layers_under_lora, lora_delta
from remanent.core.selection import LINEARS, Selection
from remanent.core.weights import Weights, local
from remanent.errors import InputError, UnsupportedError

PruningGranularity = Literal["layer", "global"]
_LARGEST_BITS = 0x7F800000  # of a float32 that is not NaN: infinity


@dataclass(frozen=True)
class Pruning(Displacement):
    """The share of the weights that are smallest in magnitude set to zero, without any data.

    Of equally small weights the earlier go first, so that exactly the nearest whole number to the share goes. The
    gradient is straight-through: the gradient at the pruned point is used for pruned weights too, which may come back.
    With a LoRA it is base plus adapter that is pruned: the base W moves to P(W + d) - d, d = scaling * B A.

    Args:
        share: of the weights, above 0 and below 1.
        granularity: "layer": of each weight tensor; "global": of all of them together, by one threshold.
        select: which weights; None is every linear layer inside the model but not embeddings, head or adapters.

    Source: magnitude pruning, Han et al., arXiv 1506.02626; layer against global: Blalock et al., arXiv 2003.03033;
    the gradient: Lin et al., arXiv 2006.07253.
    """

    share: float
    granularity: PruningGranularity = "layer"
    select: Selection | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError("share", self.share, "a share above 0 and below 1")
        if self.granularity not in ("layer", "global"):
            raise InputError("granularity", self.granularity, "'layer' or 'global'")

    @property
    def local(self) -> bool:
        return self.granularity == "layer"

    def moving(self, weights: Weights) -> Weights:
        if self.select is None:
            refuse_fused_experts(weights)
        return (self.select or LINEARS).of(weights)

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        above = context.once(self._entered)
        deltas: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if local(weight) is not weight:
                raise UnsupportedError(f"{name} is sharded, and the smallest weights of a shard are not the layer's")
            layer_above = above.get(owner) if (owner := weights.owner(name)) is not None else None
            if layer_above is not None:
                deltas[name] = lora_delta(layer_above).to(weight.dtype)
                weight.add_(deltas[name])
        for group in [list(weights.values())] if self.granularity == "global" else [[w] for w in weights.values()]:
            _prune(group, round(self.share * sum(weight.numel() for weight in group)))
        for name, delta in deltas.items():
            weights[name].sub_(delta)

    def _entered(self, context: Context) -> dict[nn.Module, nn.Module]:
        """Base layer -> the LoRA layer round it, of layers that can be pruned with it."""
        above = layers_under_lora(context.model) if context.model is not None else {}
        for layer in above.values():
            if is_packed(layer):
                raise UnsupportedError("pruning moves weights in place, and those under this LoRA are packed")
            for dropout in getattr(layer, "lora_dropout", {}).values():
                dropout.training = False
        return above

    def __str__(self) -> str:
        return f"prune-{self.share:g}" + ("-global" if self.granularity == "global" else "")


def _prune(weights: list[Tensor], count: int) -> None:
    """Set the `count` smallest magnitudes of several tensors to zero."""
    threshold = _smallest_reaching(weights, count)
    ties = count - _count(weights, threshold, below=True)
    for weight in weights:
        magnitude = weight.float().abs()
        weight.masked_fill_(magnitude < threshold, 0.0)
        equal = (magnitude == threshold).flatten().nonzero()[: max(0, ties), 0]
        ties -= len(equal)
        flat = weight.flatten()
        flat[equal] = 0.0
        weight.copy_(flat.view_as(weight))


def _smallest_reaching(weights: list[Tensor], count: int) -> float:
    """The smallest magnitude that, with all below it, makes up at least `count` weights.

    By bisection over the bits of a float32, which are ordered as its values are: no sorting, and no second copy of
    all magnitudes.
    """
    low, high = 0, _LARGEST_BITS
    while low < high:
        middle = (low + high) // 2
        if _count(weights, _value(middle), below=False) >= count:
            high = middle
        else:
            low = middle + 1
    return _value(low)


def _value(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def _count(weights: Iterable[Tensor], threshold: float, *, below: bool) -> int:
    found = 0
    for weight in weights:
        magnitude = weight.float().abs()
        found += int(((magnitude < threshold) if below else (magnitude <= threshold)).sum())
    return found
