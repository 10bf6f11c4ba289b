"""Whether a probe that was fitted on some groups tells two kinds of states apart in another group.

Leaving one group out, with its rows of both kinds, makes accuracy fall below one half wherever the classes were made
alike on all groups together: what is left of the held-out group is then minus the sum of the others. That is no absence
of information, since whoever sees it turns the answer round. So what counts is the distance from one half, and what
must have been fitted without the held-out group is everything: scaler, probe, and eraser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from remanent.core.probe import Fit, fit_probe
from remanent.errors import InputError

# The group that is held out -> the states of all rows, as an eraser that never saw that group leaves them.
Folds = Callable[[str], Tensor]


@dataclass(frozen=True)
class Separation:
    """How well held-out groups' rows are told apart.

    Args:
        accuracy: mean over groups of the share of a held-out group's rows that are called rightly, both kinds alike.
        auc: mean over groups of the chance that a held-out row of the positive kind scores above one of the other.
        low, high: 95 % interval of the accuracy, by drawing groups anew.
        distance: |2 accuracy - 1|: what an attacker has who may turn the answer round; 0 is nothing, 1 is all.
        p: share of relabellings, each of whole groups, whose distance is at least this one's; None where none was made.
        groups: name -> its accuracy.
    """

    accuracy: float
    auc: float
    low: float
    high: float
    distance: float
    p: float | None
    groups: dict[str, float]


@torch.no_grad()
def separation(
    states: Tensor | Folds,
    positive: Tensor,
    groups: Sequence[str],
    *,
    strength: float = 1.0,
    fit: Fit | None = None,
    permutations: int = 199,
    resamples: int = 2000,
    seed: int = 0,
) -> Separation:
    """Leave one group out, fit scaler and probe on the rest, and ask them about it.

    Args:
        states: (rows, width); or, where something was erased, a function that gives the rows for each group held out.
        positive: bool, (rows,).
        groups: of each row: what one knows of a row, one knows of its group.
        strength: C of the logistic regression.
        fit: another probe in its place.
        permutations: relabellings under the null that a group's two kinds could be exchanged. Each fits every fold.
        resamples: of the interval.
        seed: of both.

    Raises InputError where there are fewer than 3 groups, one has not rows of both kinds, or lengths do not fit.
    """
    if len(groups) != len(positive):
        raise InputError("groups", f"{len(groups)} names", f"one for each of the {len(positive)} rows")
    names = sorted(set(groups))
    places = {name: torch.tensor([group == name for group in groups]) for name in names}
    if len(names) < 3:
        raise InputError("groups", f"{len(names)} groups", "at least 3, since one at a time is left out")
    for name, place in places.items():
        if not bool(positive[place].any()) or bool(positive[place].all()):
            raise InputError(f"group {name}", "rows of one kind", "rows of both kinds")
    fit = fit or partial(fit_probe, strength=strength)
    folds = {name: states if isinstance(states, Tensor) else states(name) for name in names}
    accuracy, auc = _round(folds, positive, places, fit)
    values = torch.tensor([accuracy[name] for name in names], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = values[torch.randint(len(names), (resamples, len(names)), generator=generator)].mean(dim=1)
    mean = float(values.mean())
    distance = abs(2 * mean - 1)
    as_far = 1
    for _ in range(permutations):
        turned = positive.clone()
        for name in names:
            if bool(torch.rand((), generator=generator) < 0.5):
                turned[places[name]] = ~turned[places[name]]
        other, _ = _round(folds, turned, places, fit)
        as_far += abs(2 * sum(other.values()) / len(other) - 1) >= distance - 1e-12
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    p = as_far / (permutations + 1) if permutations else None
    return Separation(mean, sum(auc.values()) / len(auc), low, high, distance, p, accuracy)


def _round(
    folds: Mapping[str, Tensor], positive: Tensor, places: Mapping[str, Tensor], fit: Fit
) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy and AUC of each group, by the probe of all others."""
    accuracy, auc = {}, {}
    for name, rows in folds.items():
        out = places[name]
        probe = fit(rows[~out], positive[~out])
        scores, truth = probe.scores(rows[out]), positive[out]
        right = ((scores > 0) == truth).double()
        accuracy[name] = float(right[truth].mean() + right[~truth].mean()) / 2
        apart = scores[truth][:, None] - scores[~truth][None, :]
        auc[name] = float(((apart > 0).double() + (apart == 0).double() / 2).mean())
    return accuracy, auc


def paired(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Names of pairs, for rows of one kind and then of the other: the n-th group of one with the n-th of the other.

    What one knows of a group one knows of all of its rows, so that whole groups are held out. Where one kind has more
    groups they are dealt out over the other's.

    Args:
        ours: group of each row of the first kind, in order.
        theirs: of the second.
    """
    sides = [{name: number for number, name in enumerate(dict.fromkeys(side))} for side in (ours, theirs)]
    count = min(map(len, sides))
    return [f"pair{order[name] % count}" for order, side in zip(sides, (ours, theirs), strict=True) for name in side]
