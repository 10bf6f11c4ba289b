"""Can an attacker tell the forgotten records from unseen ones: the attacks' AUCs, judged on both sides. Never FAILED.

An AUC far above chance says that the records were trained on and are remembered; one far below says that they were
treated: a hole marks them as well (the Streisand effect). So the distance counts, and not the direction.
"""

from __future__ import annotations

import math

from scipy.stats import norm

from remanent.auditing.evidence import AUDITED, FORGET, RETRAINED, Evidence, Measure
from remanent.auditing.intervals import Interval, smallest_detectable_gap
from remanent.auditing.judgement import NOT_ASSESSABLE, PASSED, WARNED, Criteria
from remanent.auditing.measure_names import BEYOND, FITTED, MEMBERSHIP, TPR
from remanent.auditing.place import Finding, shown


def membership(evidence: Evidence, criteria: Criteria, condition: str) -> Finding | None:
    """The attack that tells most at a condition; None where none was measured there.

    The yardstick is the retrained model's AUC by the same attack on the same records where it was measured, else 0.5,
    which is right where forget and control differ in nothing but training.
    """
    found = [_told(evidence, criteria, item) for item in _attacks(evidence, condition)]
    return min(found, key=lambda finding: (finding.verdict != NOT_ASSESSABLE, finding.margin), default=None)


def _attacks(evidence: Evidence, condition: str) -> list[Measure]:
    return [
        item
        for item in evidence.measures
        if (item.subject, item.condition, item.records) == (AUDITED, condition, FORGET)
        and item.name.startswith(MEMBERSHIP)
        and not item.name.endswith((TPR, BEYOND))
    ]


def _told(evidence: Evidence, criteria: Criteria, item: Measure) -> Finding:
    attack, margin = item.name.removeprefix(MEMBERSHIP), criteria.membership_margin
    beyond = evidence.measure(AUDITED, item.condition, FORGET, item.name + BEYOND)
    retrained = evidence.measure(RETRAINED, item.condition, FORGET, item.name)
    found = _distance(beyond, 0.0) if beyond is not None and retrained is not None else _distance(item, 0.5)
    if item.value is None or found is None:
        return Finding(NOT_ASSESSABLE, f"A score of the attack {attack} is not finite.")
    yardstick = "chance, 0.500"
    if beyond is not None and retrained is not None:
        yardstick = f"the retrained model's {retrained.value:.3f}"
    # A fitted attack that ranks the wrong way tells nothing.
    remembered, marked = found.low > margin, found.high < -margin and attack not in FITTED
    room = max(found.high, -found.low)
    end = (
        "an attacker can tell the records from unseen ones"
        if remembered and attack in FITTED
        else "an attacker can tell that the records were trained on"
        if remembered
        else "a hole marks the records: an attacker can tell that they were treated"
        if marked
        else f"not told by these data, which leave room for a distance of {min(room, 1.0):.3f}"
    )
    reason = (
        f"The AUC of forget against control by the attack {attack} is {item.value:.3f}; distance from {yardstick}: "
        f"{shown(found)}, which may not lie wholly beyond {margin:.3f} on either side: {end}."
    )
    error = (found.high - found.low) / 2 / float(norm.isf(criteria.alpha))
    gap = margin + smallest_detectable_gap(error, criteria.alpha)
    verdict = WARNED if remembered or marked else PASSED
    return Finding(verdict, reason, found, margin, gap, min(margin - found.low, found.high + margin))


def _distance(item: Measure, yardstick: float) -> Interval | None:
    """None where there is no value; a bound that is missing, as with a single group, is infinite."""
    if item.value is None:
        return None
    low, high = -math.inf if item.low is None else item.low, math.inf if item.high is None else item.high
    return Interval(item.value - yardstick, low - yardstick, high - yardstick)
