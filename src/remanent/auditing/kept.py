"""Is the rest kept: what was known beyond the control, and general text."""

from __future__ import annotations

import math

from remanent.auditing.evidence import AUDITED, CONTROL, RETAIN, TEXT
from remanent.auditing.intervals import Interval, Sample, retention_interval
from remanent.auditing.judgement import FAILED, PASSED, WARNED
from remanent.auditing.place import UNDECIDED, Finding, Missing, Place, at_least, paired, sample_of, shown


def retention(place: Place, baseline: str, condition: str) -> Finding:
    """Does the audited model keep what the baseline knows beyond the control? NOT ASSESSABLE where that is nothing."""
    criteria = place.criteria
    pairs = {}
    for records in (RETAIN, CONTROL):
        pairs[records] = paired(place.scores(AUDITED, records), place.scores(baseline, records, condition))
    (retain, retain0), (control, control0) = (
        (sample_of([ours for ours, _ in pair]), sample_of([theirs for _, theirs in pair])) for pair in pairs.values()
    )
    room = place.difference(control0, retain0, "room")
    if room.low <= 0:
        raise Missing(
            f"The {baseline} model at {condition} does not itself know the retained records better than the control "
            f"({shown(room)} nats), so there is nothing whose keeping could be measured."
        )
    draws = (place.generator("retention"), criteria.alpha, criteria.bootstrap_resamples)
    found = retention_interval(retain, retain0, control, control0, *draws)
    # A model that lost its grip on everything unseen widens its own gap to the control, and the ratio with it.
    fixed = (control0.mean - retain.mean) / (control0.mean - retain0.mean)
    verdict = at_least(found, criteria.upsilon)
    end = {PASSED: "kept", FAILED: "not kept", WARNED: UNDECIDED}[verdict]
    if verdict == PASSED and fixed < criteria.upsilon:
        verdict = WARNED
        end = f"but against the {baseline} model's own control it is {fixed:.3f}: a worse control carries the ratio"
    reason = (
        f"Mean NLL of retain and control: audited {retain.mean:.3f} and {control.mean:.3f}, {baseline} at {condition} "
        f"{retain0.mean:.3f} and {control0.mean:.3f}; share kept {shown(found, sign='')}; the lower bound must reach "
        f"{criteria.upsilon:.3f}: {end}."
    )
    return Finding(verdict, reason, found, criteria.upsilon, margin=min(found.low, fixed) - criteria.upsilon)


def general_text(place: Place, baseline: str, condition: str) -> Finding:
    """Is perplexity, over tokens, within the factor of the baseline's on the same texts?"""
    factor = place.criteria.perplexity_factor
    pairs = paired(place.scores(AUDITED, TEXT), place.scores(baseline, TEXT, condition))
    groups, tokens = [ours.group for ours, _ in pairs], [ours.tokens for ours, _ in pairs]
    ours, theirs = (Sample([pair[side].nll for pair in pairs], groups, tokens) for side in (0, 1))
    logs = place.mean(Sample(ours.values - theirs.values, groups, tokens), "text")
    found = Interval(_exp(logs.value), _exp(logs.low), _exp(logs.high))
    verdict = PASSED if found.high <= factor else FAILED if found.low > factor else WARNED
    end = {
        PASSED: "within the factor",
        FAILED: "not within the factor",
        WARNED: UNDECIDED,
    }[verdict]
    reason = (
        f"Perplexity of general text: audited {_exp(ours.mean):.5g}, {baseline} at {condition} "
        f"{_exp(theirs.mean):.5g}; ratio {shown(found, sign='')}; the upper bound may reach {factor:.3f}: {end}."
    )
    return Finding(verdict, reason, found, factor, margin=factor - found.high)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # the largest double is e^709
