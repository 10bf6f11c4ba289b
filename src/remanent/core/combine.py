"""Several gradients to one, where adding them up is not what is meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from remanent.core.method import Combine
from remanent.errors import InputError

Gradients = Mapping[tuple[str, str], Mapping[str, Tensor]]  # (term, point) -> weight's name -> gradient

_NOTHING = 1e-5  # of a gradient's norm: what float32 leaves of 0
# Of the largest singular value. A direction below it is not known well enough to project on: it turns by the gradient's
# rounding error over its singular value, and with it what is left of the other gradient.
_SMALLEST = 1e-3


@dataclass(frozen=True)
class OffSubspace(Combine):
    """One term's gradient without its part in the subspace that another term's gradient spans, matrix by matrix.

    g (I - V V^T), where the columns of V are the leading right singular vectors of the other term's gradient of the
    same update, summed over its points. Parameters that are not matrices pass unchanged. Computed in float32.

    Args:
        term: the term that is projected.
        off: the term whose gradient spans the subspace.
        rank: most vectors of each matrix. Where that gradient has as many independent ones as the matrix has columns,
            nothing of `term` is left there.
        add: whether the gradient of `off` itself is part of the sum.
    """

    term: str = "forget"
    off: str = "retain"
    rank: int = 128
    add: bool = True

    sums_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError("rank", self.rank, "at least 1 vector")

    def __call__(self, gradients: Gradients) -> dict[str, Tensor]:
        sums = by_term(gradients)
        spanning = sums.get(self.off, {})  # a term whose turn it is not at this update is not there
        for name, gradient in sums.get(self.term, {}).items():
            if gradient.dim() == 2 and name in spanning:
                sums[self.term][name] = project_off(gradient, spanning[name], self.rank)
        return added_up(part for term, part in sums.items() if term != self.off or self.add)


@dataclass(frozen=True)
class MaskedTerm(Combine):
    """The sum of the terms' gradients, of which one is 0 outside a mask; the others pass as they are.

    Args:
        term: the term that is masked.
        mask: weight's name -> bool, of its shape, on its device; of a weight that is not named all passes.
    """

    term: str = "forget"
    mask: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    sums_points: ClassVar[bool] = True

    def __call__(self, gradients: Gradients) -> dict[str, Tensor]:
        sums = by_term(gradients)
        for name, gradient in sums.get(self.term, {}).items():
            if name in self.mask:
                sums[self.term][name] = gradient * self.mask[name]
        return added_up(sums.values())


def by_term(gradients: Gradients) -> dict[str, dict[str, Tensor]]:
    """Term -> weight's name -> gradient, the points of a term added up."""
    parts: dict[str, list[Mapping[str, Tensor]]] = {}
    for (term, _), part in gradients.items():
        parts.setdefault(term, []).append(part)
    return {term: added_up(part) for term, part in parts.items()}


def added_up(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Weight's name -> the sum of its gradients."""
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, gradient in part.items():
            total[name] = total[name] + gradient if name in total else gradient
    return total


def add_in(total: dict[str, Tensor], part: Mapping[str, Tensor]) -> None:
    """Add gradients to others, in place; those of new weights are taken over.

    Args:
        total: weight's name -> gradient, held by nobody else.
        part: weight's name -> what is added.
    """
    both = [name for name in part if name in total]
    if both:
        torch._foreach_add_([total[name] for name in both], [part[name] for name in both])
    total |= {name: gradient for name, gradient in part.items() if name not in total}


@torch.no_grad()
def project_off(gradient: Tensor, other: Tensor, rank: int) -> Tensor:
    """gradient (I - V V^T), V the leading right singular vectors of `other`; exactly 0 where nothing is left of it.

    Rounding error in the place of 0 would not stay small: Adam divides a gradient by its own size.

    Args:
        gradient: (rows, columns).
        other: of the same shape.
        rank: most vectors.

    NaN where either is not finite: nothing can be projected then, and whoever takes the gradient is to see it.
    """
    if not (gradient.isfinite().all() and other.isfinite().all()):
        return torch.full_like(gradient, torch.nan)
    vectors = right_singular_vectors(other, rank)
    wide = gradient.to(vectors.dtype)
    left = wide - (wide @ vectors) @ vectors.T
    if vectors.shape[1] == gradient.shape[1] or left.norm() <= _NOTHING * wide.norm():
        return torch.zeros_like(gradient)
    return left.to(gradient.dtype)


def right_singular_vectors(matrix: Tensor, rank: int) -> Tensor:
    """The leading right singular vectors, (columns, at most `rank`); those of a singular value of 0 are left out."""
    wide = matrix if matrix.dtype == torch.float64 else matrix.float()
    if wide.shape[0] > wide.shape[1]:
        wide = torch.linalg.qr(wide, mode="r").R  # the same right singular vectors, of a matrix as small as can be
    _, values, vectors = torch.linalg.svd(wide, full_matrices=False)
    count = int((values > _SMALLEST * values[0]).sum())
    leading: Tensor = vectors[: min(rank, count)].T
    return leading
