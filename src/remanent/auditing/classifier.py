"""Can two sets be told apart by their records' figures: logistic regression, scored on groups it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from remanent.core.probe import fit_probe
from remanent.errors import InputError

Array = NDArray[np.float64]

FOLDS = 5


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
    positive = torch.arange(len(figures)) < len(first)
    fold = np.concatenate([_deal(groups, folds, generator) for groups in (first_groups, second_groups)])
    scores, rows = np.zeros(len(figures)), torch.from_numpy(figures)
    for left_out in range(folds):
        seen = torch.from_numpy(fold != left_out)
        scores[fold == left_out] = fit_probe(rows[seen], positive[seen]).scores(rows[~seen]).numpy()
    return scores[: len(first)], scores[len(first) :]


def _deal(groups: Sequence[str], folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    names = sorted(set(groups))
    dealt = dict(zip([names[place] for place in generator.permutation(len(names))], range(len(names)), strict=True))
    return np.array([dealt[group] % folds for group in groups])
