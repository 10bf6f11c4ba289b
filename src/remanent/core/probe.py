"""Probes: what tells two kinds of rows apart. A linear one, fitted without a step size, and a small network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from remanent.errors import InputError

_STEPS = 50  # of Newton's; it ends after about ten
_ENOUGH = 1e-9  # of the gradient's largest entry, per row
_SAME = 1e-9  # of a coordinate's mean: a deviation below it is a rounding error
_EPOCHS, _RATE, _DECAY = 200, 1e-2, 1e-4  # of a network's training: all rows at once, by Adam


@dataclass(frozen=True)
class Scaler:
    """Brings states to mean 0 and standard deviation 1, coordinate by coordinate.

    Args:
        mean: float64, (width,).
        scale: float64, (width,): the standard deviation; 1 where all rows are the same.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, states: Tensor) -> Scaler:
        """Of states (rows, width); the deviation is that of the rows themselves, not an estimate of a population's."""
        states = states.double()
        mean, scale = states.mean(dim=0), states.std(dim=0, correction=0)
        return cls(mean, torch.where(scale > _SAME * mean.abs(), scale, torch.ones_like(scale)))

    def __call__(self, states: Tensor) -> Tensor:
        return (states.double() - self.mean) / self.scale


class Fitted(Protocol):
    """What was fitted to tell two kinds apart."""

    def scores(self, states: Tensor) -> Tensor:
        """Log-odds of the positive kind: float64, (rows,)."""
        ...


# Rows (rows, width) and which of them are of the positive kind -> what tells them apart.
Fit = Callable[[Tensor, Tensor], Fitted]


@dataclass(frozen=True)
class Probe:
    """A logistic regression behind a scaler.

    Args:
        scaler: of the states that it was fitted on.
        weights: float64, (width,), in the scaled space.
        bias: its constant.
    """

    scaler: Scaler
    weights: Tensor
    bias: float

    def scores(self, states: Tensor) -> Tensor:
        """Log-odds of the positive kind: float64, (rows,)."""
        return self.scaler(states) @ self.weights + self.bias

    @property
    def direction(self) -> Tensor:
        """The direction along which scores rise, of length 1, among the states as they are; 0 where there is none.

        (h - m) / s . w = h . (w / s) and a constant: the scaler is part of it.
        """
        raw = self.weights / self.scaler.scale
        length = torch.linalg.vector_norm(raw)
        return raw / length if length > 0 else raw


@torch.no_grad()
def fit_probe(states: Tensor, positive: Tensor, strength: float = 1.0, scaler: Scaler | None = None) -> Probe:
    """The minimum of |w|^2 / 2 + C * sum over rows of log(1 + exp(-y (w . x + b))), by Newton's method in float64.

    What scikit-learn's LogisticRegression gives behind a StandardScaler. Where there are fewer rows than coordinates
    it is solved among the rows, which hold w. Deterministic.

    Args:
        states: (rows, width), of any floating dtype.
        positive: bool, (rows,): which of the two kinds a row is.
        strength: C: the larger, the closer w follows the rows. Above 0.
        scaler: one made before; None makes it of these rows.

    Raises InputError where one of the kinds is missing or a state is not finite.
    """
    if not 0 < strength < math.inf:
        raise InputError("strength", strength, "a finite number above 0")
    _check(states, positive)
    scaler = scaler or Scaler.of(states)
    rows = scaler(states)
    signs = positive.to(rows.device).double() * 2 - 1
    basis = None
    if rows.shape[0] < rows.shape[1]:
        basis, triangle = torch.linalg.qr(rows.T)  # rows = triangle^T basis^T, and |basis a| = |a|
        rows = triangle.T
    found = _newton(torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1), signs, strength)
    weights = found[:-1] if basis is None else basis @ found[:-1]
    return Probe(scaler, weights, float(found[-1]))


@dataclass(frozen=True)
class NetworkProbe:
    """A network of ReLU layers behind a scaler.

    Args:
        scaler: of the states that it was fitted on.
        network: (rows, width) -> (rows, 1), float64.
    """

    scaler: Scaler
    network: nn.Module

    @torch.no_grad()
    def scores(self, states: Tensor) -> Tensor:
        """Log-odds of the positive kind: float64, (rows,)."""
        found: Tensor = self.network(self.scaler(states))
        return found[:, 0]


@torch.enable_grad()
def fit_network(states: Tensor, positive: Tensor, hidden: Sequence[int] = (16,), seed: int = 0) -> NetworkProbe:
    """A small network by full-batch Adam on the mean log loss, in float64: an attacker that is not linear.

    What scikit-learn's MLPClassifier is to the paper's battery, but for its minibatches. Deterministic given the seed.

    Args:
        states: (rows, width), of any floating dtype.
        positive: bool, (rows,): which of the two kinds a row is.
        hidden: widths of its hidden layers, at least one.
        seed: of its first weights.

    Raises InputError where one of the kinds is missing or a state is not finite.
    """
    if not hidden or min(hidden) < 1:
        raise InputError("hidden", tuple(hidden), "the widths of one hidden layer or more")
    _check(states, positive)
    scaler = Scaler.of(states)
    rows, truth = scaler(states), positive.to(states.device).double()
    generator = torch.Generator().manual_seed(seed)
    widths = (rows.shape[1], *hidden, 1)
    parts: list[nn.Module] = []
    for into, out in pairwise(widths):
        layer = nn.Linear(into, out, dtype=torch.float64)
        bound = math.sqrt(6 / (into + out))
        with torch.no_grad():
            for weight in (layer.weight, layer.bias):
                weight.copy_((2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1) * bound)
        parts += [layer, nn.ReLU()]
    network = nn.Sequential(*parts[:-1]).to(rows.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    for _ in range(_EPOCHS):
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(network(rows)[:, 0], truth).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return NetworkProbe(scaler, network)


def _check(states: Tensor, positive: Tensor) -> None:
    if not bool(positive.any()) or bool(positive.all()):
        raise InputError("positive", "rows of one kind", "rows of both kinds")
    if not bool(states.isfinite().all()):
        raise InputError("states", "not finite", "finite hidden states")


def _newton(rows: Tensor, signs: Tensor, strength: float) -> Tensor:
    """The minimizer, its last entry the bias, which is not drawn to 0. Steps that would not descend are halved."""
    found = rows.new_zeros(rows.shape[1])
    ridge = torch.ones_like(found)
    ridge[-1] = 0.0

    def loss(at: Tensor) -> Tensor:
        return (ridge * at * at).sum() / 2 + strength * functional.softplus(-signs * (rows @ at)).sum()

    value = loss(found)
    for _ in range(_STEPS):
        chance = torch.sigmoid(-signs * (rows @ found))
        gradient = ridge * found - strength * (rows.T @ (signs * chance))
        if bool(gradient.abs().max() <= _ENOUGH * len(rows)):
            break
        curvature = strength * (rows.T * (chance * (1 - chance))) @ rows
        curvature.diagonal().add_(ridge + 1e-12)
        step = torch.linalg.solve(curvature, gradient)
        length = 1.0
        while length > 1e-8 and bool(loss(found - length * step) > value):
            length /= 2
        found = found - length * step
        value = loss(found)
    return found
