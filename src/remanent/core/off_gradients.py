"""One term's gradient off the gradients that another term had, over all weights together, in the optimizer's metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from remanent.core.combine import Gradients, add_in, by_term
from remanent.core.method import Combine, UpdateView
from remanent.core.weights import norm
from remanent.errors import InputError, RunConflictError

_HELD = torch.bfloat16
# Of a direction's length: what is left of it off those before it, below which it is not known well enough to project
# on. Twice the same batch, added up in other pieces, leaves up to some 3e-3 in bfloat16.
_NEW = 1e-2
# Of the length before: what float32 leaves of 0, which Adam, who divides a gradient by its own size, would blow up.
_NOTHING = 1e-6
_NEAR = 1e-6  # cosine that what is left may have with a direction, before it is projected again
_PIECE = 1 << 22  # entries that are looked at together, so that nothing is held in float32 of a whole large weight


@dataclass
class Recent:
    """The newest gradients of a term, each a direction that is not to change.

    Args:
        slots: name -> bfloat16, (filled slots, entries of the weight): a direction is turned by 0.002 of its length.
        order: slots, from the newest gradient to the oldest.
    """

    slots: dict[str, Tensor] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def add(self, gradient: Mapping[str, Tensor], most: int) -> bool:
        """Take a gradient in, in the place of the oldest where there are `most`; False where it is 0 or not finite.

        A weight that it has no part in, as one of an expert that no record reached, is 0 in its slot.
        """
        if not 0 < float(norm(gradient.values())) < math.inf:
            return False
        held, full = len(self.order), len(self.order) >= most
        place = self.order.pop() if full else held
        for name in dict.fromkeys((*self.slots, *gradient)):
            part, rows = gradient.get(name), self.slots.get(name)
            if part is not None:
                # A checkpoint's lie elsewhere; a weight that was in no gradient yet was 0 in all of them.
                rows = part.new_zeros((held, part.numel()), dtype=_HELD) if rows is None else rows.to(part.device)
            assert rows is not None
            rows = rows if full else torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
            rows[place] = 0 if part is None else part.detach().reshape(-1)
            self.slots[name] = rows
        self.order.insert(0, place)
        return True


@dataclass(frozen=True)
class OffGradients:
    """The sum of the terms' gradients, of which one is taken without its part along another's newest gradients.

    With P the diagonal of what the optimizer multiplies a gradient with, R = [r_1 .. r_k] the newest gradients of
    `off`, this update's first, and <a, b>_P = a^T P b over all weights together:

        g' = g - R (R^T P R)^-1 R^T P g,    so that R^T P g' = 0

    A step along -P g' then changes the losses that R are gradients of by second order only. The tangent, kept at a
    strength above 0: c r_1, c = <g, r_1>_P / <r_1, r_1>_P, where c > 0, since a step along it lowers the loss of
    `off`; of the others of R no part is kept, since this update's gradient of `off` lies along r_1 alone. It is at
    most `tangent` times as long as g', in the metric.

    Inner products in float32, their k x k system in float64, solved again for what is left where that is not off R yet.
    A gradient of R that lies in the span of the newer ones is left out. R is held in bfloat16, this update's too: k
    half copies of the weights that have a gradient of `off`. Works in place, on the gradients that it is given.

    Args:
        term: the term that is projected.
        off: the term whose gradients are not to be stepped along.
        count: k, how many of them, at least 1.
        tangent: kappa, at least 0.
        metric: whether P is the optimizer's; without it P is 1.
        mask: weight's name -> bool, of its shape: the entries that may move, where not all may; the others are no part
            of any gradient.
        recent: the gradients kept from update to update: part of a run's state.

    Source: GU, arXiv 2511.17100.
    """

    term: str = "forget"
    off: str = "retain"
    count: int = 8
    tangent: float = 0.0
    metric: bool = True
    mask: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    recent: Recent = field(default_factory=Recent, repr=False)

    sums_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("count", self.count, "at least 1 gradient")
        if not 0 <= self.tangent < math.inf:
            raise InputError("tangent", self.tangent, "a finite number of at least 0")

    @property
    def copies(self) -> float:
        """How many copies of a float32 gradient it holds."""
        return self.count / 2

    def begun(self) -> OffGradients:
        """The same with no gradient of `off` seen yet."""
        return replace(self, recent=Recent())

    def within(self, update: UpdateView) -> Combine:
        """The combination of one update."""
        return _Within(self, update.scales)

    def products(self, step: int, steps: int) -> tuple[str, ...]:
        """None."""
        return ()

    def spanning(self) -> Mapping[str, Tensor]:
        """Name -> (k, entries): the directions that the term is taken off, in the order of the slots."""
        return self.recent.slots

    def state_dict(self) -> dict[str, Any]:
        """The gradients of the updates before."""
        return {"slots": dict(self.recent.slots), "order": list(self.recent.order)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave. Raises RunConflictError where nothing of this kind was given."""
        if not {"slots", "order"} <= set(state):
            raise RunConflictError(
                "the run that goes on here held no retain gradients: give the setting that it was begun with "
                "(directions=0 of durable, whose default was another)"
            )
        # Cloned, since what was given may go on elsewhere.
        self.recent.slots = {name: rows.clone() for name, rows in state["slots"].items()}
        self.recent.order = list(state["order"])


@dataclass(frozen=True)
class _Within:
    off: OffGradients
    scales: Callable[[], Mapping[str, Tensor]]

    @torch.no_grad()
    def __call__(self, gradients: Gradients) -> dict[str, Tensor]:
        sums, off = by_term(gradients), self.off
        for part in sums.values():
            for name, mask in off.mask.items():
                if name in part:
                    part[name].mul_(mask.to(part[name].device))
        fresh = off.off in sums and off.recent.add(sums[off.off], off.count)
        if off.term in sums and off.recent.order:
            project(
                sums[off.term],
                off.spanning(),
                off.recent.order,
                self.scales() if off.metric else {},
                off.tangent if fresh else 0.0,  # an older gradient is not where the loss is to be lowered
            )
        total: dict[str, Tensor] = {}
        for part in sums.values():
            add_in(total, part)
        return total


@torch.no_grad()
def project(
    gradient: dict[str, Tensor],
    rows: Mapping[str, Tensor],
    order: Sequence[int],
    scales: Mapping[str, Tensor],
    tangent: float = 0.0,
) -> None:
    """Write g - R (R^T P R)^-1 R^T P g, and the tangent along the first of R, over g; exactly 0 where nothing is left.

    Args:
        gradient: name -> g.
        rows: name -> (k, entries): R transposed.
        order: of the k rows: one that lies in the span of those before it in the order is left out.
        scales: name -> the diagonal of P; where a weight of R has none, P is 1 for all.
        tangent: kappa.
    """
    system = _System(gradient, rows, scales if all(name in scales for name in rows) else {})
    products, along, before = system.products()
    kept, factor = _independent(products, order)
    rest, after = along, before
    for _ in range(2 if any(name in gradient for name in rows) else 0):
        taken = torch.zeros_like(rest)
        taken[kept] = torch.cholesky_solve(rest[kept, None], factor)[:, 0]
        rest, after = system.without(taken)
        if bool((rest[kept].abs() <= _NEAR * products.diagonal()[kept].sqrt() * after).all()):
            break
    if after <= _NOTHING * before:
        for part in gradient.values():
            part.zero_()
        after = 0.0
    first = order[0]
    if tangent > 0 and along[first] > 0:
        length = float(products[first, first]) ** 0.5
        back = torch.zeros_like(along)
        back[first] = -min(float(along[first]) / length, tangent * after) / length
        system.without(back)


class _System:
    """g, R and P, looked at piece by piece; inner products are added up in float64 on the CPU."""

    def __init__(self, gradient: dict[str, Tensor], rows: Mapping[str, Tensor], scales: Mapping[str, Tensor]) -> None:
        self._rows, self._scales = rows, scales
        for name, part in gradient.items():
            gradient[name] = part.contiguous()
        self._gradient = {name: part.view(-1) for name, part in gradient.items()}
        # What R has no part in stays as it is.
        alone = [name for name in gradient if name not in rows]
        self._alone = sum(_square(part.float(), scale) for _, part, scale in self._pieces(alone) if part is not None)

    def products(self) -> tuple[Tensor, Tensor, float]:
        """R^T P R, (k, k); R^T P g, (k,); the length of g."""
        count = len(next(iter(self._rows.values())))
        found = torch.zeros(count, count, dtype=torch.float64)
        along, square = torch.zeros(count, dtype=torch.float64), self._alone
        for rows, part, scale in self._pieces(self._rows):
            scaled = rows if scale is None else rows * scale
            found += (scaled @ rows.T).double().cpu()
            if part is not None:
                wide = part.float()
                along += (scaled @ wide).double().cpu()
                square += _square(wide, scale)
        return (found + found.T) / 2, along, square**0.5

    def without(self, taken: Tensor) -> tuple[Tensor, float]:
        """Take R @ taken off g; returns R^T P g, (k,), and the length of g, as they are then."""
        along, square = torch.zeros_like(taken), self._alone
        for rows, part, scale in self._pieces(self._rows):
            if part is not None:
                wide = part.float() - taken.to(rows) @ rows
                part.copy_(wide)
                along += (rows @ (wide if scale is None else wide * scale)).double().cpu()
                square += _square(wide, scale)
        return along, square**0.5

    def _pieces(self, names: Iterable[str]) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """R^T, float32 (k, entries), of no rows where R has no part; g, a view of it, or None where it has no part; the
        diagonal of P, None where it is 1."""
        for name in names:
            part = self._gradient.get(name)
            rows = self._rows[name] if part is None or name in self._rows else part.new_empty(0, len(part))
            rows = rows if part is None else rows.to(part.device)  # a checkpoint's lie elsewhere
            scale = self._scales[name].reshape(-1) if name in self._scales else None
            for start in range(0, rows.shape[1], _PIECE):
                piece = slice(start, start + _PIECE)
                yield (
                    rows[:, piece].float(),
                    None if part is None else part[piece],
                    None if scale is None else scale[piece],
                )


def _square(wide: Tensor, scale: Tensor | None) -> float:
    return float(wide @ wide if scale is None else wide.square() @ scale)


def _independent(products: Tensor, order: Sequence[int]) -> tuple[list[int], Tensor]:
    """Which directions are kept, in order, and the Cholesky factor of their inner products."""
    lengths = products.diagonal().sqrt()
    cosines = products / (lengths[:, None] * lengths)
    kept = [order[0]]
    for place in order[1:]:
        factor = torch.linalg.cholesky(cosines[kept][:, kept])
        part = torch.linalg.solve_triangular(factor, cosines[kept, place][:, None], upper=False)
        if 1 - float(part.square().sum()) > _NEW**2:
            kept.append(place)
    return kept, torch.linalg.cholesky(products[kept][:, kept])


def off_newest(directions: int) -> OffGradients | None:
    """Off so many of the newest retain gradients, in no optimizer's metric, so that any optimizer will do; None for 0,
    which adds the terms up. Raises InputError for fewer."""
    if directions < 0:
        raise InputError("directions", directions, "a number of gradients, or 0 for none")
    return OffGradients(count=directions, metric=False) if directions else None
