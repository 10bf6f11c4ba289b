"""The anamnesis index: how soon a model knows again what it forgot, against one that never knew it.

Chundawat et al., Zero-Shot Machine Unlearning (arXiv 2201.05629), section 5: r_t(unlearned) / r_t(retrained), r_t the
relearning it takes until accuracy on the forget set is within 5 % of the original's. 1 is ideal; towards 0 it was only
hidden; far above 1 something was broken. Time is counted in updates, accuracy in tokens, teacher forced, both ours.
Beside it stands how soon the same model learns records that it never saw, to the same accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from remanent.auditing.evidence import CONTROL, FORGET
from remanent.auditing.intervals import Interval
from remanent.auditing.measure_names import RELEARNT
from remanent.auditing.text_score import TextScore
from remanent.core.batch import collate
from remanent.core.displacement import Here, Relearning, Then
from remanent.core.sampling import Sampler
from remanent.core.scores import score_records
from remanent.data.encode import pad_id
from remanent.data.record import Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import AuditSet, Measurer

STEPS = (0, 1, 2, 3, 5, 8, 13, 21, 34)  # after how many updates is asked
SHORT = 0.05  # of the original's accuracy: what may be missing
RATE, BATCH = 1e-4, 8

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Anamnesis:
    """Relearns the forget set, and the control for itself, and asks it after so many updates.

    Args:
        learning_rate: of AdamW.
    """

    learning_rate: float = RATE
    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> Anamnesis:
        """The look. Raises InputError without a forget set, or for a rate that is not above 0."""
        if not named.get(FORGET) or not 0 < self.learning_rate < math.inf:
            raise InputError("at", f"anamnesis-{self.learning_rate:g}", "a forget set, and a learning rate above 0")
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records trained on and asked."""
        return sum(
            sum(STEPS) * min(BATCH, len(part)) + len(STEPS) * len(part)
            for part in (named.get(FORGET, ()), named.get(CONTROL, ()))
        )

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Each record's token accuracy after each number of updates. A condition's rounding comes after relearning."""
        return {
            name: self._curve(measurer, condition, measurer.sets[name])
            for name in (FORGET, CONTROL)
            if name in measurer.sets
        }

    def _curve(self, measurer: Measurer, condition: Condition, part: AuditSet) -> list[TextScore]:
        fill = pad_id(measurer.tokenizer)
        sampler = Sampler(len(part), BATCH, 0, "anamnesis")
        batches = [collate(part.encoded, sampler.batch(step), fill) for step in range(1, STEPS[-1] + 1)]
        values: list[dict[str, float]] = [{} for _ in part.hashes]
        for steps in STEPS:
            # Anew from the start each time: the same updates, and the weights come back bit for bit.
            first = Relearning(batches[:steps], steps, self.learning_rate, 0, measurer.autocast) if steps else Here()
            with Then(first, condition.displacement).at(measurer.model):
                found = score_records(measurer.model, part.encoded, **measurer.how)
            for item, share in zip(values, (found.hits / found.tokens).tolist(), strict=True):
                item[f"{RELEARNT}{steps}"] = share
        return [TextScore(*names, item) for names, item in zip(part.hashes, values, strict=True)]


def curves(scores: Sequence[TextScore]) -> Array | None:
    """(records, steps): accuracy of each record after each number of updates; None where it was not relearned."""
    names = [f"{RELEARNT}{steps}" for steps in STEPS]
    if not scores or any(name not in score.values for score in scores for name in names):
        return None
    return np.array([[score.values[name] for name in names] for score in scores])


def time_to(curve: Array, target: float) -> float:
    """Updates until a mean accuracy reaches a target, by straight lines between those asked; infinite where not.

    Args:
        curve: (steps,).
        target: accuracy.
    """
    if curve[0] >= target:
        return 0.0
    for (before, after), (here, there) in zip(pairwise(STEPS), pairwise(curve), strict=True):
        if there >= target:
            return float(before + (after - before) * (target - here) / (there - here))
    return math.inf


def relearn_time(
    own: tuple[Array, Sequence[str]],
    original: tuple[Array, Sequence[str]],
    generator: np.random.Generator,
    alpha: float,
    resamples: int,
    against: tuple[Array, Sequence[str]] | None = None,
) -> Interval | None:
    """Updates until accuracy is within 5 % of the original's on the forget set, or their ratio to another's, with the
    percentiles of a cluster bootstrap; an end that is not regained in most draws is infinite. None where the value is.

    Args:
        own: `curves` and the records' groups.
        original: the original model's on the forget set: the target is of its accuracy before any update.
        generator: draws groups; sets of as many groups alike, as those of two models on the same records must be.
        alpha: one-sided error of each end.
        resamples: draws.
        against: of what the ratio is to; a time of 0 there gives none.
    """
    parts = [part for part in (own, original, against) if part is not None]
    means = [_by_group(*part) for part in parts]

    def value(weights: Mapping[int, Array]) -> float:
        rows = [weights[len(sums)] @ sums for sums, _ in means]
        sizes = [weights[len(counts)] @ counts for _, counts in means]
        at = [row / size for row, size in zip(rows, sizes, strict=True)]
        target = (1 - SHORT) * float(at[1][0])
        found = time_to(at[0], target)
        if against is None:
            return found
        other = time_to(at[2], target)
        return found / other if 0 < other < math.inf else math.inf

    counts = sorted({len(sums) for sums, _ in means})
    whole = value({count: np.ones(count) for count in counts})
    if not math.isfinite(whole):
        return None
    if min(counts) < 2:
        return Interval(whole, 0.0, math.inf)
    drawn = np.array(
        [
            value({n: generator.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for n in counts})
            for _ in range(resamples)
        ]
    )
    low, high = (float(np.quantile(drawn, at, method="nearest")) for at in (alpha, 1 - alpha))
    return Interval(whole, low, high)


def _by_group(curve: Array, groups: Sequence[str]) -> tuple[Array, Array]:
    """(groups, steps) sums and (groups,) records, groups in order of their names."""
    names, where = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), curve.shape[1]))
    np.add.at(sums, where, curve)
    return sums, np.bincount(where, minlength=len(names)).astype(np.float64)
