"""Can two sets be told apart by their records' figures: logistic regression, scored on groups it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from remanent.errors import InputError

Array = NDArray[np.float64]

FOLDS = 5
STRENGTH = 1.0  # C of scikit-learn's LogisticRegression
_STEPS, _CLOSE = 100, 1e-10


def fitted_scores(
    first: Array, second: Array, first_groups: Sequence[str], second_groups: Sequence[str], seed: int = 0
) -> tuple[Array, Array] | None:
    """How much each record looks like one of the first set, by a classifier that saw no record of its group.

    Groups are dealt to at most 5 folds, each set for itself, so that every fold holds both. Figures are standardized by
    the records that are fitted on. The score is the classifier's log-odds. Where nothing tells the sets apart, an AUC
    of these scores lies about 1/2 and by chance on either side.

    Args:
        first, second: (records, figures), finite.
        first_groups, second_groups: the group of each record.
        seed: of the deal.

    Returns:
        The scores of both sets, (records,) each; None where a set has one group, of which none is left to fit on.

    Raises:
        InputError: where a figure is not finite.
    """
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("figures", "not finite", "finite figures")
    folds = min(FOLDS, len(set(first_groups)), len(set(second_groups)))
    if folds < 2:
        return None
    generator = np.random.default_rng(seed)
    figures = np.concatenate([first, second])
    labels = np.repeat([1.0, 0.0], [len(first), len(second)])
    fold = np.concatenate([_deal(groups, folds, generator) for groups in (first_groups, second_groups)])
    scores = np.zeros(len(labels))
    for left_out in range(folds):
        seen = fold != left_out
        mean, spread = figures[seen].mean(axis=0), figures[seen].std(axis=0)
        # A figure that is the same everywhere tells nothing, be it by a rounding error.
        scale = np.where(spread > 1e-9 * np.abs(mean), spread, np.inf)
        weights = logistic((figures[seen] - mean) / scale, labels[seen])
        scores[~seen] = ((figures[~seen] - mean) / scale) @ weights[:-1] + weights[-1]
    return scores[: len(first)], scores[len(first) :]


def logistic(figures: Array, labels: Array, strength: float = STRENGTH) -> Array:
    """Weights and, last, the intercept that minimize |weights|^2 / 2 + strength * sum of log losses: (figures + 1,).

    Newton's method with a step that is halved until the loss falls. The intercept is not shrunk.

    Args:
        figures: (records, figures).
        labels: (records,), 1 or 0, of which both are there.
        strength: how much the data count against small weights.
    """
    design = np.column_stack([figures, np.ones(len(figures))])
    shrunk = np.append(np.ones(figures.shape[1]), 0.0)
    weights = np.zeros(design.shape[1])

    def loss(at: Array) -> float:
        margin = np.where(labels > 0, 1, -1) * (design @ at)
        return float((shrunk * at**2).sum() / 2 + strength * np.logaddexp(0, -margin).sum())

    now = loss(weights)
    for _ in range(_STEPS):
        chance = 0.5 * (1 + np.tanh(design @ weights / 2))
        gradient = shrunk * weights + strength * design.T @ (chance - labels)
        curvature = np.diag(shrunk) + strength * (design.T * (chance * (1 - chance))) @ design
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(weights)), gradient)
        size = 1.0
        while (after := loss(weights - size * step)) > now and size > 1e-6:
            size /= 2
        weights, gain, now = weights - size * step, now - after, after
        if gain < _CLOSE * max(1.0, now):
            break
    return weights


def _deal(groups: Sequence[str], folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    names = sorted(set(groups))
    dealt = dict(zip([names[place] for place in generator.permutation(len(names))], range(len(names)), strict=True))
    return np.array([dealt[group] % folds for group in groups])
