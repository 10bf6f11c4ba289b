"""Whether one figure of many models goes with another: Kendall's tau, with an interval, also within groups.

`correlation` is of two figures, `study` of every measure of sharpness with every other figure of a pool of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from remanent.core.estimate import Estimate
from remanent.errors import InputError
from remanent.sharpness.estimate import ALPHA, Array

_RESAMPLES = 1000
_FEWEST = 4


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
    if len(pairs) < _FEWEST or not np.isfinite(pairs).all():
        raise InputError("first", f"{len(first)} and {len(second)} figures", "as many finite figures, 4 at least")
    if groups is not None and len(groups) != len(pairs):
        raise InputError("groups", len(groups), f"one for each of the {len(pairs)} models")
    within: dict[str, Estimate] = {}
    for name in dict.fromkeys(groups or ()):
        rows = pairs[[group == name for group in groups or ()]]
        if len(rows) >= _FEWEST:
            within[name] = _tau(rows, seed)
    return Correlation(_tau(pairs, seed), len(pairs), within)


@dataclass(frozen=True)
class Measured:
    """What is known of one model of a study.

    Args:
        name: of the model.
        sharpness: measure -> its figure; None or not finite where it has none, as of a worst point that diverged.
        figures: what sharpness is held against: test error, learning rate.
        group: such as how its data was augmented; None for none.
    """

    name: str
    sharpness: Mapping[str, float | None]
    figures: Mapping[str, float]
    group: str | None = None


@dataclass(frozen=True)
class Study:
    """Every measure against every figure.

    Args:
        models: what was given.
        correlations: measure -> figure -> tau, over the models that have both.
    """

    models: Sequence[Measured]
    correlations: Mapping[str, Mapping[str, Correlation]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        models = [asdict(model) for model in self.models]
        for model in models:
            model["sharpness"] = {
                name: value if _is_finite(value) else None for name, value in model["sharpness"].items()
            }
        return {
            "measure": "correlation-study",
            "models": models,
            "correlations": {
                name: {figure: found.to_dict() for figure, found in of.items()}
                for name, of in self.correlations.items()
            },
        }


def study(models: Sequence[Measured], *, seed: int = 0) -> Study:
    """Tau of every measure of sharpness with every figure, over a pool of models.

    A model without a measure is left out of that measure; one that fewer than 4 models have is left out whole.

    Args:
        models: at least 4, of different names, with the same figures.
        seed: of the bootstraps.

    Raises InputError where there are fewer, a name comes twice, a figure is missing or not finite, or only some models
    have a group.
    """
    if len(models) < _FEWEST:
        raise InputError("models", len(models), f"at least {_FEWEST}")
    figures = list(models[0].figures)
    names = [model.name for model in models]
    for model in models:
        if names.count(model.name) > 1:
            raise InputError("models", model.name, "a name for each model; it names several")
        if set(model.figures) != set(figures):
            raise InputError("figures", f"{model.name}: {', '.join(model.figures)}", ", ".join(figures))
        for figure, value in model.figures.items():
            if not math.isfinite(value):
                raise InputError("figures", f"{model.name}: {figure} {value}", "finite figures")
        if (model.group is None) != (models[0].group is None):
            raise InputError("group", f"{model.name}: {model.group}", "a group for each model, or for none")
    found: dict[str, dict[str, Correlation]] = {}
    for measure in dict.fromkeys(name for model in models for name in model.sharpness):
        with_it = [model for model in models if _is_finite(model.sharpness.get(measure))]
        if len(with_it) < _FEWEST:
            continue
        groups = None if models[0].group is None else [str(model.group) for model in with_it]
        values = [model.sharpness[measure] or 0.0 for model in with_it]
        found[measure] = {
            figure: correlation(values, [model.figures[figure] for model in with_it], groups, seed=seed)
            for figure in figures
        }
    return Study(models, found)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


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
