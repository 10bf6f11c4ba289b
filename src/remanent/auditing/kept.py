"""Is the rest kept: what was known beyond the control, and general text."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from remanent.auditing.evidence import AUDITED, CONTROL, RETAIN, TEXT
from remanent.auditing.intervals import Interval, Sample, retention_interval
from remanent.auditing.judgement import FAILED, PASSED, WARNED
from remanent.auditing.place import UNDECIDED, Finding, Missing, Place, at_least, paired, sample_of, shown


def share_kept(
    retain: Sample,
    retain_original: Sample,
    control: Sample,
    control_original: Sample,
    generator: Callable[[], np.random.Generator],
    alpha: float = 0.05,
    resamples: int = 2000,
) -> tuple[Interval, Interval]:
    """How much of what a model knew beyond unseen records it still knows, held against two controls.

    Neither alone will do. The model's *own* control rises with everything unseen when a model gets worse, and would
    carry the share up; the *original's* control stays high when a model learns the form of answers better, and would
    count that form as knowledge. The share kept is the smaller of the two; asked of both, a bound of each at `alpha`
    is a bound at `alpha` of the smaller one (an intersection of tests).

    Args:
        retain, retain_original: the same records in the same order, on the model and on what it is compared to.
        control, control_original: likewise.
        generator: gives the same generator anew at each call, so that both shares come from the same draws.

    Returns:
        (NLL_control - NLL_retain) / (NLL0_control - NLL0_retain), and the same with NLL0_control in the numerator.
    """
    own = retention_interval(retain, retain_original, control, control_original, generator(), alpha, resamples)
    fixed = retention_interval(
        retain, retain_original, control_original, control_original, generator(), alpha, resamples
    )
    return own, fixed


def smaller(one: Interval, two: Interval) -> Interval:
    """The smaller of two shares, end by end."""
    return Interval(min(one.value, two.value), min(one.low, two.low), min(one.high, two.high))


def retention(place: Place, baseline: str, condition: str) -> Finding:
    """Does the audited model keep what the baseline knows beyond the control? NOT ASSESSABLE where that is too little.

    Args:
        place: where the audited model is judged.
        baseline: whose knowledge is to be kept.
        condition: at which the baseline was measured.
    """
    criteria = place.criteria
    (retain, retain0), (control, control0) = (
        _on_both(place, records, baseline, condition) for records in (RETAIN, CONTROL)
    )
    room = place.difference(control0, retain0, "room")
    if room.low <= 0:
        raise Missing(
            f"The {baseline} model at {condition} does not itself know the retained records better than the control "
            f"({shown(room)} nats), so there is nothing whose keeping could be measured."
        )
    _intact(place, baseline, condition, retain0, control0)
    own, fixed = _shares(place, retain, retain0, control, control0)
    found = smaller(own, fixed)
    verdict = at_least(found, criteria.upsilon)
    end = {PASSED: "kept", FAILED: "not kept", WARNED: UNDECIDED}[verdict]
    reason = (
        f"Mean NLL of retain and control: audited {retain.mean:.3f} and {control.mean:.3f}, {baseline} at {condition} "
        f"{retain0.mean:.3f} and {control0.mean:.3f}; share kept against its own control {shown(own, sign='')}, "
        f"against the {baseline} model's {shown(fixed, sign='')}; the lower bound of both must reach "
        f"{criteria.upsilon:.3f}: {end}."
    )
    return Finding(verdict, reason, found, criteria.upsilon, margin=found.low - criteria.upsilon)


def without_control(place: Place, baseline: str, condition: str) -> Finding:
    """Without unseen records: is retain as well known as before? FAILED or WARNED, since form and facts look alike."""
    pairs = paired(place.scores(AUDITED, RETAIN), place.scores(baseline, RETAIN, condition))
    rises = Sample([ours.nll - theirs.nll for ours, theirs in pairs], [ours.group for ours, _ in pairs])
    found, most = place.mean(rises, "risen"), place.criteria.epsilon
    verdict = FAILED if found.low > most else WARNED
    end = "less known" if verdict == FAILED else "without unseen records nothing tells kept facts from a kept form"
    reason = (
        f"Mean NLL of the retained records lies {shown(found)} nats above the {baseline} model's at {condition}, of "
        f"which {most:.3f} are tolerated: {end}."
    )
    return Finding(verdict, reason, found, most, margin=most - found.high)


def general_text(place: Place, baseline: str, condition: str) -> Finding:
    """Is perplexity, over tokens, within the factor of the baseline's on the same texts?"""
    factor, most = place.criteria.perplexity_factor, place.criteria.intact_perplexity
    full = place.full
    if full and condition != full:
        worse = _perplexities(place, baseline, TEXT, condition, baseline, full, "intact text")[0]
        if not worse.value <= most:
            raise Missing(
                f"At {condition} the {baseline} model's own perplexity of general text is {worse.value:.5g} times its "
                f"own at {full}, more than {most:g} times, so a comparison with it says nothing."
            )
    found, ours, theirs = _perplexities(place, AUDITED, TEXT, place.condition.name, baseline, condition, "text")
    verdict = PASSED if found.high <= factor else FAILED if found.low > factor else WARNED
    end = {
        PASSED: "within the factor",
        FAILED: "not within the factor",
        WARNED: UNDECIDED,
    }[verdict]
    reason = (
        f"Perplexity of general text: audited {ours:.5g}, {baseline} at {condition} {theirs:.5g}; ratio "
        f"{shown(found, sign='')}; the upper bound may reach {factor:.3f}: {end}."
    )
    return Finding(verdict, reason, found, factor, margin=factor - found.high)


def _intact(place: Place, baseline: str, condition: str, retain: Sample, control: Sample) -> None:
    """Raise Missing where a precision has itself destroyed what the baseline knew.

    Asked of the estimate and not of its bound: what the data leave open about it shows in the interval of the share
    that is judged.
    """
    full = place.full
    if not full or condition == full:
        return
    before = {name: sample_of(place.scores(baseline, name, full)) for name in (RETAIN, CONTROL)}
    room = before[CONTROL].mean - before[RETAIN].mean
    left = (control.mean - retain.mean) / room if room > 0 else -math.inf
    least = place.criteria.intact
    if left < least or retain.mean >= before[CONTROL].mean:
        raise Missing(
            f"At {condition} the {baseline} model itself is broken: mean NLL of retain and control {retain.mean:.3f} "
            f"and {control.mean:.3f}, at {full} {before[RETAIN].mean:.3f} and {before[CONTROL].mean:.3f}. At least "
            f"{least:.0%} of the difference must be left, and retain must be better known than the control at {full}; "
            f"else a share of it says nothing about what was kept."
        )


def _on_both(place: Place, records: str, baseline: str, condition: str) -> tuple[Sample, Sample]:
    pairs = paired(place.scores(AUDITED, records), place.scores(baseline, records, condition))
    return sample_of([ours for ours, _ in pairs]), sample_of([theirs for _, theirs in pairs])


def _shares(
    place: Place, retain: Sample, retain0: Sample, control: Sample, control0: Sample
) -> tuple[Interval, Interval]:
    alpha, resamples = place.criteria.alpha, place.criteria.bootstrap_resamples
    return share_kept(retain, retain0, control, control0, lambda: place.generator("retention"), alpha, resamples)


def _perplexities(
    place: Place, subject: str, records: str, at: str, baseline: str, condition: str, purpose: str
) -> tuple[Interval, float, float]:
    """The ratio of two models' perplexities over the tokens of the same texts, and both."""
    pairs = paired(place.scores(subject, records, at), place.scores(baseline, records, condition))
    groups, tokens = [ours.group for ours, _ in pairs], [ours.tokens for ours, _ in pairs]
    ours, theirs = (Sample([pair[side].nll for pair in pairs], groups, tokens) for side in (0, 1))
    logs = place.mean(Sample(ours.values - theirs.values, groups, tokens), purpose)
    return Interval(_exp(logs.value), _exp(logs.low), _exp(logs.high)), _exp(ours.mean), _exp(theirs.mean)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # the largest double is e^709
