"""Limits that were declared on measures, judged by the ends of the measures' intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from remanent.auditing.evidence import AUDITED, WEIGHTS, Measure
from remanent.auditing.intervals import Interval
from remanent.auditing.judgement import FAILED, NOT_ASSESSABLE, PASSED, WARNED, Line
from remanent.auditing.measure_names import DISTANCE, QUALITY, WEIGHT_DISTANCE
from remanent.auditing.place import UNDECIDED, at_least, shown
from remanent.auditing.requirement import Requirement
from remanent.auditing.truth_ratio import least_quality

# The outcome of a test, and of weights, which are no sample: without an interval, the value decides.
POINTS = (QUALITY, DISTANCE, WEIGHT_DISTANCE)


def required_lines(measures: Sequence[Measure], required: Sequence[str]) -> list[Line]:
    """Of each declared limit a line at each condition at which its measure was made on the audited model.

    PASSED where the measure's whole interval keeps within the limit, FAILED where it lies beyond it, else WARNED, as
    where so few records were asked that no forget quality could lie beyond; NOT ASSESSABLE where the measure was not
    made, or has no value.
    """
    lines: dict[tuple[str, str], Line] = {}
    for asked in map(Requirement.parse, required):
        found = [
            item
            for item in measures
            if (item.subject, item.name) == (AUDITED, asked.measure)
            and asked.condition in ("", item.condition)
            and asked.is_about(item.records)
        ]
        for line in [_judged(asked, item) for item in found] or [_missing(asked)]:
            lines.setdefault((line.name, line.condition), line)
    return list(lines.values())


def _missing(asked: Requirement) -> Line:
    of = f" of the {asked.records} records" if asked.records else ""
    where = f" at {asked.condition}" if asked.condition else ""
    reason = f"{asked.measure}{of} was not measured on the audited model{where}."
    return Line(asked.line, asked.condition, NOT_ASSESSABLE, threshold=asked.limit, reason=reason)


def _judged(asked: Requirement, item: Measure) -> Line:
    what = f"{item.name} of the {item.records}{'' if item.records == WEIGHTS else ' records'}"
    if item.value is None:
        reason = f"{what} has no value at {item.condition}: a score that it is made of is missing or not finite."
        return Line(asked.line, item.condition, NOT_ASSESSABLE, threshold=asked.limit, reason=reason)
    low, high = (
        (item.value, item.value)
        if item.name in POINTS
        else (-math.inf if item.low is None else item.low, math.inf if item.high is None else item.high)
    )
    found = Interval(item.value, low, high)
    if asked.at_least:
        verdict = at_least(found, asked.limit)
    else:
        verdict = PASSED if high <= asked.limit else FAILED if low > asked.limit else WARNED
    figure = f"{item.value:+.3f}, without bounds" if item.name in POINTS else shown(found)
    end = {PASSED: "within the limit", FAILED: "beyond the limit", WARNED: UNDECIDED}[verdict]
    must = f"{'must reach' if asked.at_least else 'may reach'} {asked.limit_text}"
    which = "which" if item.name in POINTS else f"whose {'lower' if asked.at_least else 'upper'} bound"
    reason = f"{what}, {item.n} in all: {figure}, {which} {must}: {end}."
    if item.name == QUALITY and asked.at_least and least_quality(item.n) >= asked.limit:
        verdict = WARNED
        reason = f"{what}: {figure}; {item.n} cannot give less than {asked.limit_text}, whatever they are: undecided."
    return Line(asked.line, item.condition, verdict, item.value, item.low, item.high, asked.limit, None, reason)
