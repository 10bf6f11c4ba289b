"""The worst point within a radius, searched by Auto-PGD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from remanent.core.displacement.base import Context, Displacement
from remanent.core.displacement.gradients import loss_and_gradients
from remanent.core.displacement.scale import Scale, check_scale, scale_of
from remanent.core.weights import Weights, norm
from remanent.errors import InputError, did_you_mean

Norm = Literal["l2", "linf"]
Projection = Literal["scaled", "euclidean"]
Tensors = dict[str, Tensor]

_MOMENTUM = 0.75
_ENOUGH = 0.75  # share of steps since the last checkpoint that must have raised the loss
_TINY = 1e-12
_BISECTIONS = 100


@dataclass(frozen=True)
class AutoPGD(Displacement):
    """w + d, d the largest loss found with ||d / c|| <= rho, in so many steps that start at d = 0.

    A step goes up the gradient by s, is projected, and a quarter of the step before the last is mixed in. s begins at
    2 rho and is halved at checkpoints where the loss was raised too rarely or not at all; there the next gradient is
    that of the best point. The best point is kept, so that the loss there is never below the loss here. All weights
    that take a gradient share one ball; a weight with c = 0 does not move.

    Args:
        rho: radius, at least 0.
        norm: "l2", one ball over all weights together, or "linf", an interval for each weight.
        scale: c, see `Scale`: "element" is adaptive sharpness.
        steps: at least 1; each is one forward and backward pass.
        of: name of the loss to climb; None climbs the sum of all.
        projection: for "l2" with a scale. "scaled" steps along c^2 g / ||c g||, the steepest in units of c, and scales
            d back; "euclidean" is the paper's code: it steps along c g / ||g|| and takes the nearest point of the
            ellipsoid.

    Source: arXiv 2302.07011 and its code (tml-epfl/sharpness-vs-generalization), after Croce and Hein's Auto-PGD,
    arXiv 2003.01690.
    """

    rho: float
    norm: Norm = "l2"
    scale: Scale = "none"
    steps: int = 20
    of: str | None = None
    projection: Projection = "scaled"

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __post_init__(self) -> None:
        if not self.rho >= 0:
            raise InputError("rho", self.rho, "a radius of at least 0")
        if self.steps < 1:
            raise InputError("steps", self.steps, "at least 1")
        check_scale(self.scale)
        for field, value, known in (
            ("norm", self.norm, get_args(Norm)),
            ("projection", self.projection, get_args(Projection)),
        ):
            if value not in known:
                raise InputError(field, value, did_you_mean(value, known))

    @property
    def held(self) -> int:
        # The gradient, where it started, and four points: now, before, ahead and the best; and |w| where that scales.
        return 6 + (self.scale == "element") if self.rho > 0 else 0

    def moving(self, weights: Weights) -> Weights:
        return weights.trainable()

    def move(self, weights: Weights, context: Context) -> None:
        if self.rho == 0:
            return
        losses = context.losses(self.of)
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        unit = {name: scale_of(weights, name, self.scale) for name in weights}
        moved = {name: torch.zeros_like(weight, dtype=_wide(weight)) for name, weight in weights.items()}
        before = {name: value.clone() for name, value in moved.items()}
        best_moved = {name: value.clone() for name, value in moved.items()}
        best, gradients = loss_and_gradients(weights, losses)
        step = last_step = 2 * self.rho
        last_best, last, raised = best, 0, 0
        checkpoints = _checkpoints(self.steps)
        for number in range(self.steps):
            with torch.no_grad():
                ahead = self._projected(self._stepped(moved, gradients, unit, step), unit)
                for name in ahead:
                    ahead[name].mul_(_MOMENTUM).add_(before[name], alpha=1 - _MOMENTUM)
                moved, before = ahead, moved
                _put(weights, start, moved)
            value, gradients = loss_and_gradients(weights, losses)
            if math.isfinite(value) and value > best:
                best, raised = value, raised + 1
                best_moved = {name: part.clone() for name, part in moved.items()}
            if number in checkpoints:
                few = raised < _ENOUGH * (number - last)
                stuck = last_step == step and last_best == best
                last_step, last_best, last, raised = step, best, number, 0
                if few or stuck:
                    step /= 2
                    _put(weights, start, best_moved)
                    _, gradients = loss_and_gradients(weights, losses)
            if not math.isfinite(float(norm(gradients.values()))):
                break  # over an edge from which no gradient leads back
        _put(weights, start, best_moved)

    def _stepped(
        self, moved: Tensors, gradients: Mapping[str, Tensor], unit: Mapping[str, Tensor], step: float
    ) -> Tensors:
        ahead = {name: value.clone() for name, value in moved.items()}
        scaled = self.norm == "l2" and self.projection == "scaled"
        length = 1.0
        if self.norm == "l2":
            length = float(norm(unit[name] * part if scaled else part for name, part in gradients.items())) + _TINY
        for name, gradient in gradients.items():
            up = gradient.sign() if self.norm == "linf" else unit[name] * gradient if scaled else gradient
            ahead[name].add_(up * unit[name], alpha=step / length)
        return ahead

    def _projected(self, moved: Tensors, unit: Mapping[str, Tensor]) -> Tensors:
        if self.norm == "linf":
            return {
                name: torch.clamp(part, -self.rho * unit[name], self.rho * unit[name]) for name, part in moved.items()
            }
        length = _length(moved, unit)
        if length <= self.rho:
            return moved
        if self.projection == "scaled" or self.scale == "none":
            return {name: part * (self.rho / length) for name, part in moved.items()}
        return _on_ellipsoid(moved, unit, self.rho)

    def __str__(self) -> str:
        of = f"-{self.of}" if self.of else ""
        unit = "" if self.scale == "none" else f"-{self.scale}"
        return f"auto-pgd-{self.norm}-{self.rho:g}{of}{unit}" + (
            "-euclidean" if self.projection == "euclidean" and unit else ""
        )


def _length(moved: Mapping[str, Tensor], unit: Mapping[str, Tensor]) -> float:
    """||d / c|| over all weights together; those with c = 0 have d = 0 and no part in it."""
    return float(norm(torch.where(unit[name] > 0, part / unit[name], 0.0) for name, part in moved.items()))


def _on_ellipsoid(moved: Tensors, unit: Mapping[str, Tensor], rho: float) -> Tensors:
    """The nearest point with ||d / c|| = rho: d c^2 / (c^2 + m), with m by bisection."""

    def at(m: float) -> Tensors:
        return {
            name: torch.where(unit[name] > 0, part * unit[name].square() / (unit[name].square() + m), 0.0)
            for name, part in moved.items()
        }

    low, high = 0.0, 1.0
    while _length(at(high), unit) > rho:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        length = _length(at(middle), unit)
        if abs(length - rho) <= 1e-6 * rho:
            return at(middle)
        low, high = (middle, high) if length > rho else (low, middle)
    return at(high)


def _checkpoints(steps: int) -> set[int]:
    """After which steps, from 0, the step size is judged: at shares 0.22, 0.41, 0.57 ... of all."""
    shares, found = [0.0, 0.22], [0, math.ceil(0.22 * steps)]
    while found[-1] < steps and found[-1] != found[-2]:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
        found.append(math.ceil(shares[-1] * steps))
    return set(found[1:])


@torch.no_grad()
def _put(weights: Weights, start: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(start[name] + moved[name])


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
