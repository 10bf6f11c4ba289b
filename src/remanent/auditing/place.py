"""Where a line is judged: the scores at one condition and seed, and what a test finds there."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from remanent.auditing.evidence import ConditionInfo, Evidence, RecordScore
from remanent.auditing.intervals import Interval, Sample, difference_interval, mean_interval
from remanent.auditing.judgement import FAILED, PASSED, WARNED, Criteria

UNDECIDED = "the interval crosses the threshold, so these data do not decide"


class Missing(Exception):
    """What a line needs was not measured; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line before it has a name. `margin`: how far the deciding bound lies on the good side."""

    verdict: str
    reason: str
    interval: Interval | None = None
    threshold: float | None = None
    detectable: float | None = None
    margin: float = -math.inf


@dataclass(frozen=True, slots=True)
class Place:
    """The evidence at one condition and seed, under the criteria."""

    evidence: Evidence
    criteria: Criteria
    condition: ConditionInfo
    seed: int | None

    @property
    def full(self) -> str:
        """The name of the condition at full precision; "" where there was none."""
        return next((condition.name for condition in self.evidence.conditions if condition.kind == "full"), "")

    def scores(self, subject: str, records: str, condition: str | None = None) -> tuple[RecordScore, ...]:
        """The finite scores of one set; raises Missing where they are not there."""
        here = condition is None or condition == self.condition.name
        name, seed = (self.condition.name, self.seed) if here else (condition, None)
        found = self.evidence.find(subject, str(name), records, seed)
        where = f"the {records} records on the {subject} model at {name}"
        if found is None or not found.scores:
            raise Missing(f"There is no measurement of {where}" + ("." if seed is None else f", seed {seed}."))
        broken = sum(not math.isfinite(score.nll) for score in found.scores)
        if broken:
            raise Missing(f"{broken} of {len(found.scores)} scores of {where} are not finite.")
        return found.scores

    def generator(self, purpose: str) -> np.random.Generator:
        """A generator of this line's own, so that one more condition changes no other line's interval."""
        name = f"{purpose}/{self.condition.name}/{self.seed}"
        return np.random.default_rng([self.criteria.bootstrap_seed, zlib.crc32(name.encode())])

    # Both intervals are at the criteria's alpha.
    def difference(self, one: Sample, two: Sample, purpose: str) -> Interval:
        return difference_interval(
            one, two, self.generator(purpose), self.criteria.alpha, self.criteria.bootstrap_resamples
        )

    def mean(self, sample: Sample, purpose: str) -> Interval:
        return mean_interval(sample, self.generator(purpose), self.criteria.alpha, self.criteria.bootstrap_resamples)


def paired(ours: Sequence[RecordScore], theirs: Sequence[RecordScore]) -> list[tuple[RecordScore, RecordScore]]:
    """The same records on two models, in the order of the first."""
    others = {score.record: score for score in theirs}
    if len(others) != len(theirs) or {score.record for score in ours} != set(others) or len(ours) != len(theirs):
        raise Missing("The two models were not measured on the same records.")
    return [(score, others[score.record]) for score in ours]


def sample_of(scores: Iterable[RecordScore]) -> Sample:
    """The NLL of records, by group."""
    scores = tuple(scores)
    return Sample([score.nll for score in scores], [score.group for score in scores])


def at_least(found: Interval, threshold: float) -> str:
    """PASSED where the lower bound reaches the threshold, FAILED where the upper does not, else WARNED."""
    return PASSED if found.low >= threshold else FAILED if found.high < threshold else WARNED


def shown(found: Interval, sign: str = "+") -> str:
    """An interval in words."""
    ends = [f"{end:{sign}.3f}" if math.isfinite(end) else "unbounded" for end in (found.low, found.high)]
    return f"{found.value:{sign}.3f} (bounds {ends[0]} to {ends[1]})"
