"""Masks from saliency: the weights, or whole rows of them, that matter most for a set may move, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from remanent.core.batch import Batch, Encoded, collate
from remanent.core.episode import Episode
from remanent.core.importance import answer_nll, importance
from remanent.core.method import Method
from remanent.core.weights import Weights
from remanent.errors import DivergedError, InputError, UnsupportedError

_CHUNK = 2**22  # entries that are counted at a time


@dataclass(frozen=True)
class Masked(Method):
    """A method under which only what matters most for the forget set moves; the mask is made once, at the start.

    It holds the gradients of the whole objective, retain loss and pull included, and the optimizer's moments and
    weight decay. Costs one forward and backward pass over the forget set, and 4 bytes a weight while it is made.

    Args:
        share: of the entries, or of the rows, that may move; above 0 and at most 1, which moves all.
        rows: rank the output neurons of each matrix by the norm of their gradient, rather than single entries;
            parameters of one dimension by entry.
        records_per_pass: records of a forward and backward pass; changes memory and time only.
    """

    share: float = 0.5
    rows: bool = False
    records_per_pass: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:  # NaN is not
            raise InputError("share", self.share, "a share above 0 and at most 1")
        if self.records_per_pass < 1:
            raise InputError("records_per_pass", self.records_per_pass, "at least 1 record")

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method with its mask. Deterministic: a run that is resumed starts here with the same model."""
        if "forget" not in episode.data:
            raise InputError("data", ", ".join(episode.data) or "none", "records for 'forget', which the mask needs")
        if self.share == 1:
            return self
        weights = self.select.of(Weights.of(model).trainable())
        scores = self.scores(model, episode.data["forget"], weights)
        if self.rows:
            scores = row_norms(scores, weights)
        return self.under({name: part.expand_as(weights[name]) for name, part in top_share(scores, self.share).items()})

    def scores(self, model: nn.Module, records: Sequence[Encoded], weights: Weights) -> dict[str, Tensor]:
        """What the weights are ranked by: name -> values of at least 0, of the weight's shape."""
        return saliency(model, records, weights, self.records_per_pass)

    def under(self, mask: Mapping[str, Tensor]) -> Method:
        """The same method under a mask: name -> bool, of the weight's shape."""
        return replace(self, mask=mask)

    def passes_beforehand(self, sizes: Mapping[str, int]) -> int:
        """The forget set once, where a mask is made."""
        return 0 if self.share == 1 else sizes["forget"]


def saliency(
    model: nn.Module, records: Sequence[Encoded], weights: Weights, records_per_pass: int = 8
) -> dict[str, Tensor]:
    """|gradient of the records' answer NLL, summed over all of them|, in eval mode.

    The absolute value comes after the sum. Ranks as the gradient of ascent's loss does, and of NPO's: where the model
    is its own reference, NPO's gradient is this sum over the number of records, for any beta.

    Args:
        model: given back as it was.
        records: whose saliency is wanted.
        weights: those of the model that are ranked.
        records_per_pass: records of a forward and backward pass.

    Returns:
        weight's name -> float32 (float64 where the weight is), of its shape.
    """
    device = next(model.parameters()).device

    def batches() -> Iterator[Batch]:
        for start in range(0, len(records), records_per_pass):
            chosen = range(start, min(start + records_per_pass, len(records)))
            yield collate(records, chosen, 0).to(device)  # padding is masked, so any token will do

    return importance(model, batches(), answer_nll, reduce="abs_of_sum", weights=weights)


@torch.no_grad()
def row_norms(scores: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """L2 norm of each output neuron's scores, with the other dimensions kept as 1; vectors stay as they are.

    Args:
        scores: weight's name -> values of its shape.
        weights: the weights, whose owners tell which dimension holds the output neurons.
    """
    return {
        name: values.abs()
        if values.dim() < 2
        else torch.linalg.vector_norm(values, dim=weights.within_rows(name), keepdim=True)
        for name, values in scores.items()
    }


@torch.no_grad()
def top_share(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The largest values over all tensors together: name -> bool, of the tensor's shape.

    Values that equal the smallest chosen one are all chosen, and a value of 0 never: without a gradient nothing says
    that a weight matters. So the share is met exactly but for ties.

    Args:
        scores: name -> values of at least 0, compared in float32.
        share: of all values, above 0 and at most 1; at least one value is chosen.

    Raises DivergedError where a value is not finite, UnsupportedError where all are 0.
    """
    for name, values in scores.items():
        if not bool(values.isfinite().all()):
            raise DivergedError(f"the saliency of {name} is not finite")
    count = sum(values.numel() for values in scores.values())
    least = kth_largest(scores.values(), max(1, round(share * count)))
    masks = {name: (values.float() >= least) & (values > 0) for name, values in scores.items()}
    if not any(bool(mask.any()) for mask in masks.values()):
        raise UnsupportedError("the forget loss has no gradient at any weight that trains, so none can be chosen")
    return masks


@torch.no_grad()
def kth_largest(tensors: Iterable[Tensor], k: int) -> float:
    """The k-th largest of all values of at least 0, in float32, exactly, without sorting or joining the tensors.

    The bits of a float32 of at least 0 are in the order of its value: their upper half is counted first, then the
    lower half of those that share the upper half sought. Two passes, and memory of a few million entries.

    Args:
        tensors: values of at least 0, finite.
        k: from 1 to the number of values.
    """
    tensors = list(tensors)
    upper, k = _bin_of_kth((bits >> 16 for bits in _bits(tensors)), k)
    lower, _ = _bin_of_kth((bits[bits >> 16 == upper] & 0xFFFF for bits in _bits(tensors)), k)
    return float(torch.tensor((upper << 16) | lower, dtype=torch.int32).view(torch.float32))


def _bits(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        for part in torch.split(tensor.flatten(), _CHUNK):
            yield part.float().view(torch.int32)


def _bin_of_kth(numbers: Iterable[Tensor], k: int) -> tuple[int, int]:
    """The k-th largest of numbers from 0 to 65535, and how many-th it is among those that equal it."""
    counts = torch.zeros(2**16, dtype=torch.int64)
    for part in numbers:
        counts += torch.bincount(part, minlength=2**16).cpu()
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, k))
    found = 2**16 - 1 - place
    return found, k - int(from_above[place] - counts[found])
