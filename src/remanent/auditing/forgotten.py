"""Is it forgotten: compared with unseen records, compared with a reference, and not overdone."""

from __future__ import annotations

import math

from remanent.auditing.evidence import AUDITED, CONTROL, CONTROL_PARAPHRASED, FORGET, ORIGINAL, PARAPHRASED, RETRAINED
from remanent.auditing.intervals import Interval, Sample, auc_interval, smallest_detectable_gap
from remanent.auditing.judgement import FAILED, PASSED, WARNED, Criteria
from remanent.auditing.place import UNDECIDED, Finding, Place, at_least, paired, sample_of, shown

NAMES = {FORGET: "forgotten records", PARAPHRASED: "paraphrased forgotten records"}


def relative(place: Place, records: str) -> Finding:
    """Are they better known to the audited model than unseen records are?"""
    forget, unseen = sample_of(place.scores(AUDITED, records)), _unseen(place, AUDITED, records)
    control = sample_of(place.scores(AUDITED, unseen))
    found = place.difference(forget, control, f"relative/{records}")
    error = math.hypot(forget.standard_error, control.standard_error)
    compared = f"Mean NLL on the audited model: {NAMES[records]} {forget.mean:.3f} nats, {unseen} {control.mean:.3f}"
    return _compared(place, found, error, compared, "than unseen records are")


def absolute(place: Place, records: str) -> Finding:
    """Are they better known than to a model that never saw them, or than unseen records are to the original?

    The reference is the retrained model's score on the same records, paired; where there is none, the original
    model's on the control, under the same attack where the condition is one.
    """
    scores = place.scores(AUDITED, records)
    forget = sample_of(scores)
    if place.evidence.find(RETRAINED, place.condition.name, records, place.seed) is not None:
        pairs = paired(scores, place.scores(RETRAINED, records))
        gaps = Sample([ours.nll - theirs.nll for ours, theirs in pairs], forget.groups)
        found, error = place.mean(gaps, f"absolute/{records}"), gaps.standard_error
        reference = f"the retrained model on the same records {sample_of(theirs for _, theirs in pairs).mean:.3f}"
    else:
        unseen = _unseen(place, ORIGINAL, records)
        control = sample_of(place.scores(ORIGINAL, unseen))
        found = place.difference(forget, control, f"absolute/{records}")
        error = math.hypot(forget.standard_error, control.standard_error)
        reference = f"the original model on the {unseen} records {control.mean:.3f}"
    compared = f"Mean NLL: {NAMES[records]} on the audited model {forget.mean:.3f} nats, {reference}"
    return _compared(place, found, error, compared, "than the reference allows")


def without_control(place: Place, records: str) -> Finding:
    """Without unseen records: are they less known than to the original? FAILED or WARNED: what is enough is open.

    A model that was not changed must not escape a verdict because its auditor brought no control.
    """
    epsilon = place.criteria.epsilon
    pairs = paired(place.scores(AUDITED, records), place.scores(ORIGINAL, records))
    gaps = Sample([ours.nll - theirs.nll for ours, theirs in pairs], [ours.group for ours, _ in pairs])
    found = place.mean(gaps, f"without control/{records}")
    verdict, end = WARNED, "less known than before, and without unseen records nothing says whether enough"
    if found.high < epsilon:
        verdict, end = FAILED, "as well known as before"
    elif found.low < epsilon:
        end = UNDECIDED
    reason = (
        f"Mean NLL of the {NAMES[records]} lies {shown(found)} nats above the original model's on the same records, "
        f"and must lie more than {epsilon:.3f} above it: {end}."
    )
    gap = smallest_detectable_gap(gaps.standard_error, place.criteria.alpha)
    return Finding(verdict, reason, found, epsilon, gap, found.low - epsilon)


def not_overdone(place: Place, records: str) -> Finding:
    """Are they known so much worse than unseen records that the hole marks them? Never FAILED."""
    criteria = place.criteria
    forget, control = sample_of(place.scores(AUDITED, records)), sample_of(place.scores(AUDITED, CONTROL))
    found = place.difference(forget, control, f"relative/{records}")
    auc = auc_interval(forget, control, place.generator("auc"), criteria.alpha, criteria.bootstrap_resamples)
    far, marked = found.value > criteria.epsilon_over, auc.low > 0.5
    end = "a hole marks these records too" if far or marked else "no hole marks these records"
    reason = (
        f"Mean NLL of the forgotten records lies {found.value:+.3f} nats from the control's, at most "
        f"{criteria.epsilon_over:+.3f} is asked; the chance that a forgotten record scores above a control record is "
        f"{auc.value:.2f} (bounds {auc.low:.2f} to {auc.high:.2f}), whose lower bound may not exceed 0.50: {end}."
    )
    margin = min(criteria.epsilon_over - found.value, 0.5 - auc.low)
    return Finding(WARNED if far or marked else PASSED, reason, found, criteria.epsilon_over, margin=margin)


def power(gap: float, criteria: Criteria) -> Finding:
    """Could the audit have seen a gap as small as the threshold?"""
    weak = gap > criteria.epsilon
    size = f"{gap:.3f} nats" if math.isfinite(gap) else "unbounded (a single group)"
    end = "underpowered, more groups are needed" if weak else "small enough"
    reason = (
        f"The smallest gap that these data would show four times in five (power 80%) is {size}, the threshold "
        f"{criteria.epsilon:.3f}: {end}."
    )
    found = Interval(gap, math.nan, math.nan)
    return Finding(WARNED if weak else PASSED, reason, found, criteria.epsilon, gap, criteria.epsilon - gap)


def _unseen(place: Place, subject: str, records: str) -> str:
    """The unseen records in the wording that the forgotten ones were asked in: another wording costs NLL of its own.

    A control without paraphrases is compared in the wording it has, which the reason names.
    """
    asked = place.evidence.find(subject, place.condition.name, CONTROL_PARAPHRASED, place.seed)
    return CONTROL_PARAPHRASED if records == PARAPHRASED and asked is not None else CONTROL


def _compared(place: Place, found: Interval, error: float, compared: str, than: str) -> Finding:
    threshold = -place.criteria.epsilon
    verdict = at_least(found, threshold)
    end = {PASSED: f"not better known {than}", FAILED: f"better known {than}", WARNED: UNDECIDED}[verdict]
    reason = f"{compared}; difference {shown(found)}, whose lower bound must reach {threshold:+.3f}: {end}."
    gap = smallest_detectable_gap(error, place.criteria.alpha)
    return Finding(verdict, reason, found, threshold, gap, found.low - threshold)
