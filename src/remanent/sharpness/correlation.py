"""Whether one figure of many models goes with another: Kendall's tau, with an interval, also within groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remanent.errors import InputError
from remanent.sharpness.estimate import ALPHA, Array, Estimate

_RESAMPLES = 1000


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b over models.

    Args:
        tau: with the percentiles of a bootstrap over models.
        models: how many.
        groups: name of the group -> tau within it; groups of fewer than 4 models are left out.
    """

    tau: Estimate
    models: int
    groups: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "correlation",
            "tau": self.tau.to_dict(),
            "models": self.models,
            "groups": {name: item.to_dict() for name, item in self.groups.items()},
        }


def correlation(
    first: Sequence[float], second: Sequence[float], groups: Sequence[str] | None = None, *, seed: int = 0
) -> Correlation:
    """How alike two figures order models: 1 the same order, -1 the reverse, ties as in tau-b.

    Args:
        first: a figure of each model, such as its sharpness.
        second: another, such as its test error.
        groups: of each model, such as how its data was augmented; None for none.
        seed: of the bootstrap.

    Raises:
        InputError: where lengths differ, a figure is not finite, or there are fewer than 4 models.
    """
    pairs = np.array([first, second], dtype=float).T if len(first) == len(second) else np.zeros((0, 2))
    if len(pairs) < 4 or not np.isfinite(pairs).all():
        raise InputError("first", f"{len(first)} and {len(second)} figures", "as many finite figures, 4 at least")
    if groups is not None and len(groups) != len(pairs):
        raise InputError("groups", len(groups), f"one for each of the {len(pairs)} models")
    within: dict[str, Estimate] = {}
    for name in dict.fromkeys(groups or ()):
        rows = pairs[[group == name for group in groups or ()]]
        if len(rows) >= 4:
            within[name] = _tau(rows, seed)
    return Correlation(_tau(pairs, seed), len(pairs), within)


def _tau(pairs: Array, seed: int) -> Estimate:
    """Tau-b of models counted as often as a draw has them: sums over pairs of models, for all draws at once."""
    first, second = (np.sign(column[:, None] - column) for column in pairs.T)
    models = len(pairs)
    drawn = np.random.default_rng(seed).multinomial(models, np.full(models, 1 / models), size=_RESAMPLES)
    counts = np.concatenate([np.ones((1, models)), drawn])

    def added(matrix: Array) -> Array:
        found: Array = ((counts @ matrix) * counts).sum(axis=1)
        return found

    with np.errstate(invalid="ignore", divide="ignore"):
        tau = added(first * second) / np.sqrt(added(first**2) * added(second**2))
    known = tau[1:][np.isfinite(tau[1:])]
    if not len(known):
        return Estimate(float(tau[0]))
    low, high = np.quantile(known, [ALPHA, 1 - ALPHA])
    return Estimate(float(tau[0]), float(low), float(high))
