"""Gradients of single records, kept as factors: what a layer's inputs and output gradients say about its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Power = Literal["squares", "absolutes"]
_CHUNK = 16 * 2**20  # bytes of whole gradients held at a time, or one gradient where that is larger


@dataclass(frozen=True)
class Outer:
    """A matrix that multiplies each position: a record's gradient is the sum over positions of left x right.

    Args:
        left: (records, positions, rows).
        right: (records, positions, columns).
    """

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> torch.Size:
        """(records, positions)."""
        return self.left.shape[:2]

    def folded(self) -> Outer:
        return self

    def by_position(self) -> Outer:
        return Outer(self.left.flatten(0, 1)[:, None], self.right.flatten(0, 1)[:, None])

    def add_to(self, dense: Tensor, start: int, stop: int) -> None:
        """Add the gradients of some records to `dense`, (records, rows, columns)."""
        torch.baddbmm(dense, self.left[start:stop].mT, self.right[start:stop], out=dense)

    def add_apart(self, total: Tensor, power: Power) -> None:
        """Add the sum over records of f(gradient), of records of one position: one product of matrices."""
        of = _OF[power]
        total.addmm_(of(self.left[:, 0]).T, of(self.right[:, 0]))


@dataclass(frozen=True)
class Rows:
    """A table whose rows are looked up: a position's gradient is one row.

    Args:
        index: int64, (records, positions): the row that each position took; negative where it gets no gradient.
        values: (records, positions, columns).
    """

    index: Tensor
    values: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.index.shape

    def folded(self) -> Rows:
        return self

    def by_position(self) -> Rows:
        return Rows(self.index.flatten()[:, None], self.values.flatten(0, 1)[:, None])

    def add_to(self, dense: Tensor, start: int, stop: int) -> None:
        _, index, values = self._taken(start, stop)
        records = torch.arange(stop - start, device=index.device).repeat_interleave(
            (self.index[start:stop] >= 0).sum(dim=1)
        )
        dense.index_put_((records, index), values, accumulate=True)

    def add_apart(self, total: Tensor, power: Power) -> None:
        """Rows that a record took more than once are added up before `power` is taken."""
        records, index, values = self._taken(0, len(self.index))
        found, place = torch.unique(records * total.shape[0] + index, return_inverse=True)
        sums = values.new_zeros(len(found), values.shape[1]).index_add_(0, place, values)
        total.index_add_(0, found % total.shape[0], _OF[power](sums))

    def _taken(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        index, values = self.index[start:stop], self.values[start:stop]
        taken = index >= 0
        return taken.nonzero()[:, 0], index[taken], values[taken]


@dataclass(frozen=True)
class Vector:
    """A vector that scales or shifts each position.

    Args:
        values: (records, positions, size): gradient at each position.
    """

    values: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape[:2]

    def folded(self) -> Vector:
        return Vector(self.values.sum(dim=1, keepdim=True))

    def by_position(self) -> Vector:
        return Vector(self.values.flatten(0, 1)[:, None])

    def add_to(self, dense: Tensor, start: int, stop: int) -> None:
        dense.add_(self.values[start:stop].sum(dim=1))

    def add_apart(self, total: Tensor, power: Power) -> None:
        total.add_(_OF[power](self.values[:, 0]).sum(dim=0))


Use = Outer | Rows | Vector


def add_powers(total: Tensor, uses: Sequence[Use], power: Power) -> None:
    """Add the sum over records of |gradient|^p to `total`, exactly; several uses of one weight are added up first.

    Args:
        total: the weight's shape; float32 or float64.
        uses: how the weight was used in one pass, the same records in each.
        power: p = 2 or 1.
    """
    uses = [use.folded() for use in uses]
    one_position = all(use.shape[1] == 1 for use in uses)
    if len(uses) == 1 and (one_position or isinstance(uses[0], Rows)):
        uses[0].add_apart(total, power)
    elif one_position and sorted(type(use).__name__ for use in uses) == ["Outer", "Rows"]:
        _add_tied(total, uses, power)
    else:
        _add_dense(total, uses, power)


def add_gradient(total: Tensor, uses: Sequence[Use]) -> None:
    """Add the gradient of all records together to `total`."""
    for use in uses:
        whole = use.by_position()
        if isinstance(whole, Outer):
            total.addmm_(whole.left[:, 0].T, whole.right[:, 0])
        elif isinstance(whole, Rows):
            taken = whole.index[:, 0] >= 0
            total.index_add_(0, whole.index[taken, 0], whole.values[taken, 0])
        else:
            total.add_(whole.values[:, 0].sum(dim=0))


def _add_dense(total: Tensor, uses: Sequence[Use], power: Power) -> None:
    """Whole gradients, a few records at a time."""
    records = uses[0].shape[0]
    chunk = max(1, _CHUNK // (total.numel() * total.element_size()))
    for start in range(0, records, chunk):
        stop = min(start + chunk, records)
        dense = total.new_zeros(stop - start, *total.shape)
        for use in uses:
            use.add_to(dense, start, stop)
        if stop - start > 1:
            total.add_((dense.square_() if power == "squares" else dense.abs_()).sum(dim=0))
        elif power == "squares":
            total.addcmul_(dense[0], dense[0])
        else:
            total.add_(dense[0].abs_())


def _add_tied(total: Tensor, uses: Sequence[Use], power: Power) -> None:
    """(o + r)^2 = o^2 + r (2 o + r), where r is one row: no whole gradient is made."""
    for use in uses:
        if isinstance(use, Outer):
            outer = use
        elif isinstance(use, Rows):
            rows = use
    outer.add_apart(total, power)
    taken = rows.index[:, 0] >= 0
    index, row = rows.index[taken, 0], rows.values[taken, 0]
    crossed = outer.left[taken, 0].gather(1, index[:, None]) * outer.right[taken, 0]
    more = row * (2 * crossed + row) if power == "squares" else (crossed + row).abs() - crossed.abs()
    total.index_add_(0, index, more)


_OF: dict[str, Callable[[Tensor], Tensor]] = {"squares": torch.square, "absolutes": torch.abs}
