"""The survey's aggregates of forgetting and retention: figures in [0, 1], 1 being best, to be read beside their parts.

Source: Blanco-Justicia et al., arXiv 2404.02062.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def forgetting(gap: float, before: float) -> float | None:
    """The share of the forget gap that is gone, in [0, 1]; 1 where the gap is 0 or less: more is no merit.

    Args:
        gap: nats by which the forgotten is better known than the unseen.
        before: the same of the model before unlearning; None is returned where it is 0 or less: there was nothing to be
            forgotten.
    """
    return None if before <= 0 else _share(1 - gap / before)


def harmonic_mean(forgotten: float, retention: float) -> float:
    """Of the two in [0, 1]; 0 where either is 0.

    Args:
        forgotten: see `forgetting`.
        retention: share that is kept; above 1 it counts as 1, below 0 as 0.
    """
    return statistics.harmonic_mean((_share(forgotten), _share(retention)))


def hypervolume(points: Iterable[tuple[float, float]]) -> float:
    """The area that the points dominate, in [0, 1]: the union of the rectangles from (0, 0), where nothing is forgotten
    and nothing kept, to each point. 1 where one point has all of both, 0 of no points.

    Args:
        points: (forgetting, retention) of each; what lies outside [0, 1] counts as the nearer end.
    """
    area, highest = 0.0, 0.0
    for forgotten, kept in sorted(((_share(x), _share(y)) for x, y in points), reverse=True):
        area += forgotten * max(0.0, kept - highest)
        highest = max(highest, kept)
    return area


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
