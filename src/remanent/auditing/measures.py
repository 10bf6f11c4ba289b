"""From records' figures to measures of whole sets: what an attacker could tell or take, beside what is ideal.

Names, on FORGET unless said otherwise; the ideal of each is the retrained model's figure.

- "membership-<attack>": AUC of forget against control; "membership-<attack>-tpr": true positives at 1% false ones.
- "membership-<attack>-beyond": the AUC minus the retrained model's, on the same records.
- "priv-leak": in percent of the retrained model's, by Min-K%.
- "exact-memorization", "extraction-strength", "truth-ratio" (the mean of min(r, 1/r)): means, on the control too.
- "forget-quality" (log10 of the p-value) and "forget-quality-distance": truth ratios against the retrained model's.
- "answers": mean of the best ROUGE-L of several sampled answers, on the control and retain too.
- "leaked", "served": BLUR's recall of the forgotten and of the retained answer to a prompt that asks both, "...-alone"
  where each is asked alone, on the control in the forgotten ones' place too; "leak-gap" and "served-gap" the means of
  what either is worse for standing together; "relearned-likeness", "relearned-closeness": mean similarity of
  relearned records, in words and in hidden states. "relearned-area" is made of measurements (`relearned_area`).
- "probability", "recall", "true-better": TOFU's numbers of each set; "model-utility", on the retain set, their harmonic
  mean over retain and further sets. "verbatim", "knowledge": MUSE's memorization, on each set.
- "extraction-likelihood", "memorization-accuracy", "exposure" (bits), "perplexity", "entropy" (bits), "repetition",
  "js-divergence" (bits), "kl-divergence" (nats), "agreement", "probability-distance", "activation-distance",
  "zero-retrain-forgetting": means, on the control too. "weight-distance": on "weights", and on each layer's.
- "relearn-time": updates until the forget set, or the control, is known as the original knew the forget set;
  "anamnesis-index": its ratio to the retrained model's, "anamnesis-against-unseen" to the same model's on the control.
- "probe-distance": what the best of PGA's probes tells, |2 accuracy - 1|, on the control between two unseen halves;
  "probe-gap": the difference of the two; "probe-gap-mean": the same of the means over probes and depths.
- "membership-remind": AUC of a classifier on the loss round each text, scored on groups it was not fitted on;
  "remind-around": the same without the figures that hold the loss itself; "remind-gain": how much further than the
  loss's AUC the first lies from one half.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from remanent.auditing.anamnesis import curves, relearn_time
from remanent.auditing.classifier import fitted_scores
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETAIN, RETRAINED, WEIGHTS, Measure
from remanent.auditing.intervals import (
    Interval,
    Sample,
    auc_interval,
    auc_pair_interval,
    mean_interval,
    share_interval,
    true_positive_interval,
)
from remanent.auditing.judgement import Criteria
from remanent.auditing.measure_names import (
    ACTIVATION_DISTANCE,
    AGREEMENT,
    ANAMNESIS,
    ANAMNESIS_UNSEEN,
    ANSWERS,
    ATTACKS,
    BENCHMARK,
    BEYOND,
    CLOSENESS,
    DISTANCE,
    ENTROPY,
    EXACT,
    EXPOSURE,
    FITTED,
    JENSEN_SHANNON,
    KNOWLEDGE,
    KULLBACK_LEIBLER,
    LEAK_GAP,
    LEAKED,
    LEAKED_ALONE,
    LIKELIHOOD,
    LOSS,
    MEMBERSHIP,
    MEMORIZATION,
    MIN_K,
    PERPLEXITY,
    PRIV_LEAK,
    PROBABILITY,
    PROBABILITY_DISTANCE,
    PROBED,
    QUALITY,
    RECALL,
    REFERENCE,
    RELEARN_TIME,
    RELEARNED,
    REMIND,
    REMIND_AROUND,
    REMIND_GAIN,
    REPETITION,
    SERVED,
    SERVED_ALONE,
    SERVED_GAP,
    STEEPNESS,
    STRENGTH,
    TPR,
    TRUE_BETTER,
    TRUTH,
    UTILITY,
    VERBATIM,
    WEIGHT_DISTANCE,
    ZERO_RETRAIN,
)
from remanent.auditing.membership import calibrated, priv_leak
from remanent.auditing.probes import probe_intervals
from remanent.auditing.remind import Choose, around, figures_of
from remanent.auditing.text_score import TextScore
from remanent.auditing.tofu import utility_interval
from remanent.auditing.truth_ratio import cannot_tell, forget_quality
from remanent.auditing.weight_distance import weight_distances

# Measures that are the mean of a figure in [0, 1].
MEANS: tuple[str, ...] = (EXACT, STRENGTH, TRUTH, ANSWERS, LEAKED, LEAKED_ALONE, SERVED, SERVED_ALONE, RELEARNED)
MEANS += (PROBABILITY, RECALL, TRUE_BETTER, VERBATIM, KNOWLEDGE, BENCHMARK)
MEANS += (LIKELIHOOD, MEMORIZATION, REPETITION, JENSEN_SHANNON, ZERO_RETRAIN, AGREEMENT, CLOSENESS)
# Means of other figures; of perplexity, of its logarithm.
UNBOUNDED: tuple[str, ...] = (EXPOSURE, ENTROPY, KULLBACK_LEIBLER, PERPLEXITY)
UNBOUNDED += (PROBABILITY_DISTANCE, ACTIVATION_DISTANCE)

_Curve = tuple[NDArray[np.float64], list[str]]  # accuracies after so many updates, and the records' groups
Scored = Mapping[tuple[str, str, str], Sequence[TextScore]]


def measures(found: Scored, criteria: Criteria) -> tuple[Measure, ...]:
    """All measures that can be made.

    Args:
        found: (subject, condition, records) -> the records' figures.
        criteria: alpha and the bootstrap's resamples and seed.
    """
    made: list[Measure] = []
    for condition in dict.fromkeys(condition for _, condition, _ in found):
        for subject in (AUDITED, ORIGINAL, RETRAINED):
            place = _Place(found, criteria, subject, condition)
            made += [*place.means(), *place.gaps(), *place.utility(), *place.membership(), *place.neighbourhood()]
            made += [*place.relearning(), *place.probing(), *place.weights()]
            if subject != RETRAINED:
                made += place.against_retrained()
    return tuple(made)


class _Place:
    """One model at one condition."""

    def __init__(self, found: Scored, criteria: Criteria, subject: str, condition: str) -> None:
        self.criteria, self.subject, self.condition = criteria, subject, condition
        self.ours = {records: found.get((subject, condition, records), ()) for records in _sets(found)}
        self.retrained = {records: found.get((RETRAINED, condition, records), ()) for records in _sets(found)}
        self.original = found.get((ORIGINAL, condition, FORGET), ())
        self._fits: dict[tuple[bool, bool], tuple[Sample, Sample] | None] = {}

    def means(self) -> list[Measure]:
        made = []
        for records, scores in self.ours.items():
            for name in MEANS:
                rows = [score for score in scores if name in score.values]
                if not rows:
                    continue
                values = [score.values[name] for score in rows]
                shown = [_cannot_tell(value) for value in values] if name == TRUTH else values
                sample = _sample(shown, rows)
                bounds = share_interval(sample, *self._draws(f"{name}/{records}")) if sample else None
                made.append(self._measure(records, name, bounds, len(rows)))
            for name in UNBOUNDED:
                rows = [score for score in scores if name in score.values]
                if rows:
                    sample = _sample([score.values[name] for score in rows], rows)
                    found = mean_interval(sample, *self._draws(f"{name}/{records}")) if sample else None
                    if found and name == PERPLEXITY:
                        with np.errstate(over="ignore"):
                            found = Interval(*np.exp([found.value, found.low, found.high]).tolist())
                    made.append(self._measure(records, name, found, len(rows)))
        return made

    def relearning(self) -> list[Measure]:
        """How soon it is known again, and against the retrained model and what was never seen."""
        sets = {name: _curve(self.ours.get(name, ())) for name in (FORGET, CONTROL)}
        original, retrained = _curve(self.original), _curve(self.retrained.get(FORGET, ()))
        forget = sets[FORGET]
        if original is None or forget is None:
            return []
        asked: list[tuple[str, str, _Curve, _Curve | None]] = [
            (name, RELEARN_TIME, own, None) for name, own in sets.items() if own
        ]
        if retrained and self.subject != RETRAINED:
            asked.append((FORGET, ANAMNESIS, forget, retrained))
        if sets[CONTROL]:
            asked.append((FORGET, ANAMNESIS_UNSEEN, forget, sets[CONTROL]))
        return [
            self._measure(
                records, name, relearn_time(own, original, *self._draws(f"{name}/{records}"), against), len(own[1])
            )
            for records, name, own, against in asked
        ]

    def probing(self) -> list[Measure]:
        """What probes of hidden states tell of the forgotten, beside what they tell of the unseen."""
        taught, unseen = (self.ours.get(records, ()) for records in (FORGET, CONTROL))
        found = probe_intervals(taught, unseen, *self._draws(PROBED))
        return [self._measure(records, name, interval, len(taught)) for (records, name), interval in found.items()]

    def weights(self) -> list[Measure]:
        """How far the weights lie from the reference's, all and by layer: no sample, so that nothing bounds it."""
        found = weight_distances(self.ours.get(WEIGHTS, ()))
        return [
            Measure(self.subject, self.condition, name, WEIGHT_DISTANCE, _finite(value), None, None, count)
            for name, (value, count) in found.items()
        ]

    def utility(self) -> list[Measure]:
        """TOFU's model utility, of the retain set and whatever further sets were asked."""
        sets = [
            scores
            for records, scores in self.ours.items()
            if records not in (FORGET, CONTROL) and scores and all(PROBABILITY in score.values for score in scores)
        ]
        if not sets or not any(RECALL in score.values for score in sets[0]):
            return []
        found = utility_interval(sets, *self._draws(UTILITY))
        return [self._measure(RETAIN, UTILITY, found, sum(map(len, sets)))]

    def gaps(self) -> list[Measure]:
        """BLUR's separability: how much more of the forgotten and less of the retained is said where both are asked."""
        made = []
        for records, scores in self.ours.items():
            rows = [score for score in scores if LEAKED in score.values]
            for name, more, less in ((LEAK_GAP, LEAKED, LEAKED_ALONE), (SERVED_GAP, SERVED_ALONE, SERVED)):
                if rows:
                    sample = _sample([score.values[more] - score.values[less] for score in rows], rows)
                    found = mean_interval(sample, *self._draws(f"{name}/{records}")) if sample else None
                    made.append(self._measure(records, name, found, len(rows)))
        return made

    def membership(self) -> list[Measure]:
        made = []
        for attack in (*ATTACKS, ANSWERS):
            pair = self._pair(self.ours, attack)
            if pair is None:
                continue
            n = len(self.ours[FORGET]) + len(self.ours[CONTROL])
            forget, control = pair
            auc = tpr = None
            if forget and control:
                auc = auc_interval(forget, control, *self._draws(attack))
                generator, alpha, resamples = self._draws(attack + TPR)
                tpr = true_positive_interval(forget, control, generator, alpha=alpha, resamples=resamples)
            made.append(self._measure(FORGET, MEMBERSHIP + attack, auc, n))
            if attack != ANSWERS:
                made.append(self._measure(FORGET, MEMBERSHIP + attack + TPR, tpr, n))
        return made

    def neighbourhood(self) -> list[Measure]:
        """What the loss round a text tells without the loss itself, and beyond it."""
        pair, alone = self._pair(self.ours, REMIND), self._pair(self.ours, LOSS)
        if pair is None or alone is None:
            return []
        n = len(self.ours[FORGET]) + len(self.ours[CONTROL])
        without = self._fit(self.ours, around)
        auc = auc_interval(without[0], without[1], *self._draws(REMIND_AROUND)) if without else None
        pairs = _whole(pair, alone)
        gain = auc_pair_interval(pairs[0], pairs[1], _further, *self._draws(REMIND_GAIN)) if pairs else None
        return [self._measure(FORGET, REMIND_AROUND, auc, n), self._measure(FORGET, REMIND_GAIN, gain, n)]

    def against_retrained(self) -> list[Measure]:
        made = []
        n = len(self.ours.get(FORGET, ())) + len(self.ours.get(CONTROL, ()))
        for attack in (*ATTACKS, ANSWERS):
            ours, theirs = self._pair(self.ours, attack), self._pair(self.retrained, attack)
            if ours is None or theirs is None:
                continue
            pairs = _whole(ours, theirs)
            draws = self._draws(attack + BEYOND)
            found = auc_pair_interval(pairs[0], pairs[1], lambda one, two: one - two, *draws) if pairs else None
            made.append(self._measure(FORGET, MEMBERSHIP + attack + BEYOND, found, n))
            if attack == MIN_K:
                leak = priv_leak(pairs[0], pairs[1], *self._draws(PRIV_LEAK)) if pairs else None
                made.append(self._measure(FORGET, PRIV_LEAK, leak, n))
        return made + self._quality()

    def _quality(self) -> list[Measure]:
        sides = [
            [score.values[TRUTH] for score in side.get(FORGET, ()) if TRUTH in score.values]
            for side in (self.ours, self.retrained)
        ]
        if not all(sides):
            return []
        n = len(sides[0])
        if not all(math.isfinite(value) for side in sides for value in side):
            return [self._measure(FORGET, name, None, n) for name in (QUALITY, DISTANCE)]
        found = forget_quality(*sides)
        figures = ((QUALITY, found.log10_p), (DISTANCE, found.statistic))
        return [Measure(self.subject, self.condition, FORGET, name, value, None, None, n) for name, value in figures]

    def _pair(self, side: Mapping[str, Sequence[TextScore]], attack: str) -> tuple[Sample | None, Sample | None] | None:
        """Member-likeness of forget and control; None where it was not scored, a None within where it is not finite."""
        found: list[Sample | None] = []
        for records in (FORGET, CONTROL):
            scores = side.get(records, ())
            if attack in FITTED:
                if not all(STEEPNESS in score.values for score in scores) or not scores:
                    return None
                fit = self._fit(side)
                found.append(fit[len(found)] if fit else None)
                continue
            if attack == REFERENCE:
                values = _calibrated(scores, self.retrained.get(records, ())) if side is self.ours else []
            else:
                values = [score.values[attack] for score in scores if attack in score.values]
            if not values or len(values) != len(scores):
                return None
            found.append(_sample(values, scores))
        return found[0], found[1]

    def _fit(
        self, side: Mapping[str, Sequence[TextScore]], chosen: Choose | None = None
    ) -> tuple[Sample, Sample] | None:
        """Forget and control by a classifier on their neighbourhoods; None where a figure is not finite."""
        key = (side is self.ours, chosen is None)
        if key not in self._fits:
            sets = [side.get(records, ()) for records in (FORGET, CONTROL)]
            fit = None
            figures = [figures_of(scores, chosen) for scores in sets]
            if all(np.isfinite(part).all() for part in figures):
                groups = [[score.group for score in scores] for scores in sets]
                fit = fitted_scores(figures[0], figures[1], groups[0], groups[1], self.criteria.bootstrap_seed)
            self._fits[key] = (Sample(fit[0], groups[0]), Sample(fit[1], groups[1])) if fit else None
        return self._fits[key]

    def _draws(self, purpose: str) -> tuple[np.random.Generator, float, int]:
        name = f"{purpose}/{self.subject}/{self.condition}"
        generator = np.random.default_rng([self.criteria.bootstrap_seed, zlib.crc32(name.encode())])
        return generator, self.criteria.alpha, self.criteria.bootstrap_resamples

    def _measure(self, records: str, name: str, found: Interval | None, n: int) -> Measure:
        figures = (found.value, found.low, found.high) if found else (math.nan,) * 3
        value, low, high = map(_finite, figures)
        return Measure(self.subject, self.condition, records, name, value, low, high, n)


def _further(auc: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much further from one half, where the second may tell with its sign turned."""
    return auc - np.maximum(other, 1 - other)


def _curve(scores: Sequence[TextScore]) -> _Curve | None:
    found = curves(scores)
    return None if found is None else (found, [score.group for score in scores])


def _finite(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def _sets(found: Scored) -> list[str]:
    return list(dict.fromkeys(records for *_, records in found))


def _cannot_tell(log_ratio: float) -> float:
    return cannot_tell(log_ratio) if math.isfinite(log_ratio) else math.nan


def _sample(values: Sequence[float], scores: Sequence[TextScore]) -> Sample | None:
    """None where a value is not finite."""
    if not all(map(math.isfinite, values)):
        return None
    return Sample(values, [score.group for score in scores])


def _calibrated(scores: Sequence[TextScore], reference: Sequence[TextScore]) -> list[float]:
    """By the retrained model, on the same records; none on the retrained model itself, or where there is none."""
    others = {score.record: score.values for score in reference}
    if scores is reference or not all(score.record in others and LOSS in score.values for score in scores):
        return []
    return [calibrated(-score.values[LOSS], -others[score.record][LOSS]) for score in scores]


def _whole(
    ours: tuple[Sample | None, Sample | None], theirs: tuple[Sample | None, Sample | None]
) -> tuple[tuple[Sample, Sample], tuple[Sample, Sample]] | None:
    (one, two), (three, four) = ours, theirs
    return ((one, two), (three, four)) if one and two and three and four else None
