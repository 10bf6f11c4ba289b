"""Figures with intervals over groups, from the scores of an audit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remanent.auditing.evidence import RecordScore
from remanent.auditing.intervals import Interval, Sample, difference_interval, mean_interval
from remanent.auditing.kept import share_kept, smaller
from remanent.core.estimate import Estimate


@dataclass(frozen=True, slots=True)
class Estimator:
    """The intervals that a report shows where the judge gave none.

    Args:
        generator: draws the bootstrap.
        alpha: one-sided error of each end.
    """

    generator: np.random.Generator
    alpha: float = 0.05

    def mean(self, scores: Sequence[RecordScore]) -> Estimate:
        """Mean NLL per record; without an interval where a score is not finite."""
        if not _finite(scores):
            return Estimate(sum(score.nll for score in scores) / len(scores))
        return _bounded(mean_interval(_sample(scores), self.generator, self.alpha))

    def difference(self, first: Sequence[RecordScore], second: Sequence[RecordScore]) -> Estimate | None:
        """Mean NLL of the first minus that of the second; None where a score is not finite."""
        if not _finite(first) or not _finite(second):
            return None
        return _bounded(difference_interval(_sample(first), _sample(second), self.generator, self.alpha))

    def retention(
        self,
        retain: Sequence[RecordScore],
        retain_original: Sequence[RecordScore],
        control: Sequence[RecordScore],
        control_original: Sequence[RecordScore],
    ) -> Estimate | None:
        """Retention (design: kept); None where the original knows the kept no better than the
        unseen, or the records of the two models differ."""
        if not all(map(_finite, (retain, retain_original, control, control_original))):
            return None
        kept, kept_before, unseen, unseen_before = (
            _sample(scores) for scores in (retain, retain_original, control, control_original)
        )
        if (kept.groups, unseen.groups) != (kept_before.groups, unseen_before.groups):
            return None
        if unseen_before.mean <= kept_before.mean:
            return None
        shares = share_kept(kept, kept_before, unseen, unseen_before, lambda: self.generator, self.alpha)
        return _bounded(smaller(*shares))


def _bounded(interval: Interval) -> Estimate:
    return Estimate.bounded(interval.value, interval.low, interval.high)


def _finite(scores: Sequence[RecordScore]) -> bool:
    return all(math.isfinite(score.nll) for score in scores)


def _sample(scores: Sequence[RecordScore]) -> Sample:
    ordered = sorted(scores, key=lambda score: score.record)
    return Sample([score.nll for score in ordered], [score.group for score in ordered])
