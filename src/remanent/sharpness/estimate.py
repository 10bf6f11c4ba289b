"""Figures with intervals, each end a one-sided bound at 5 %: over batches, over values, by bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from remanent.core.estimate import Estimate

Array = NDArray[np.float64]
ALPHA = 0.05  # one-sided error of each end


def over_batches(sums: Sequence[float], counts: Sequence[float]) -> Estimate:
    """The mean of what batches add up, sum / count over all, with Student's interval over batches.

    Batches of unlike sizes: the standard error is the ratio estimator's. One batch has no interval.

    Args:
        sums: of each batch.
        counts: how many values each sum has.
    """
    added, sizes = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    mean = float(added.sum() / sizes.sum())
    if len(added) < 2 or not np.isfinite(added).all():
        return Estimate(mean)
    rest = added - mean * sizes
    error = math.sqrt(len(added) / (len(added) - 1) * float(rest @ rest)) / float(sizes.sum())
    reach = float(student.ppf(1 - ALPHA, len(added) - 1)) * error
    return Estimate(mean, mean - reach, mean + reach)


def mean_over(values: Sequence[float]) -> Estimate:
    """Mean with Student's interval over values: batches of one size, probes, seeds."""
    return over_batches(values, [1.0] * len(values))


def bootstrapped(
    statistic: Callable[[Array], float],
    samples: Array,
    units: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Estimate:
    """A statistic of samples with the percentiles of a bootstrap over them; draws that are not finite are left out.

    Samples that go together (tokens of a record) are drawn together: taken as independent, they would make the
    interval too narrow.

    Args:
        statistic: of an array of samples.
        samples: (samples, ...), drawn along the first dimension.
        units: of each sample, the number of the unit that is drawn: (samples,); None where each is its own.
        seed: of the draws.
        resamples: how many.
    """
    generator = np.random.default_rng(seed)
    members = None if units is None else [np.flatnonzero(units == unit) for unit in np.unique(units)]
    count = len(samples) if members is None else len(members)

    def draw() -> NDArray[np.int64]:
        chosen = generator.integers(count, size=count)
        return chosen if members is None else np.concatenate([members[unit] for unit in chosen])

    drawn = np.array([statistic(samples[draw()]) for _ in range(resamples)])
    drawn = drawn[np.isfinite(drawn)]
    value = statistic(samples)
    if count < 2 or not len(drawn):
        return Estimate(value)
    low, high = np.quantile(drawn, [ALPHA, 1 - ALPHA])
    return Estimate(value, float(low), float(high))
