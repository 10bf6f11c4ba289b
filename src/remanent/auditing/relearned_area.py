"""How much comes back over the steps of a relearning attack, as one figure: the area under BLUR's curve."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from remanent.auditing.condition import Condition
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, RETRAINED, Measure, Measurement, RecordScore
from remanent.auditing.intervals import Sample, difference_interval
from remanent.auditing.judgement import Criteria
from remanent.auditing.measure_names import RELEARNED_AREA
from remanent.auditing.requirement import Requirement
from remanent.core.displacement import Here
from remanent.errors import InputError

_Key = tuple[str, str, str, int | None]


def relearned_areas(
    conditions: Sequence[Condition], measurements: Sequence[Measurement], criteria: Criteria
) -> tuple[Measure, ...]:
    """ "relearned-area" of every set that was relearned for at least two numbers of steps, filed under the most steps.

    By how many nats the forgotten records became likelier than at full precision, less by how many the unseen did, on
    average over the steps from 0 to the most: trapezoids between the numbers of steps that were asked, over their span.
    A record's curve is the mean over the seeds that ask it. 0: nothing came back. Not of the original model, which is
    attacked on a part of the control.

    Args:
        conditions: those of the audit; attacks that go on with another point or prompt have no curve.
        measurements: what was measured at them.
        criteria: alpha and the bootstrap's resamples and seed.
    """
    full = [condition.info.name for condition in conditions if condition.info.kind == "full"]
    scored: dict[_Key, Sequence[RecordScore]] = {
        (item.subject, item.condition, item.records, item.seed): item.scores for item in measurements
    }
    made = []
    for rungs in _curves(conditions) if full else ():
        last = rungs[max(rungs)]
        for subject in (AUDITED, RETRAINED):
            forget, control = (_areas(scored, subject, records, full[0], rungs) for records in (FORGET, CONTROL))
            if not forget or not control:
                continue
            made.append(_measure(subject, last.info.name, _sample(forget), _sample(control), len(forget), criteria))
    return tuple(made)


def check_asked(required: Iterable[str], conditions: Sequence[Condition]) -> None:
    """Raise InputError where a limit is on an area that these conditions do not make."""
    made = [rungs[max(rungs)].info.name for rungs in _curves(conditions)]
    for text in required:
        asked = Requirement.parse(text)
        if asked.measure == RELEARNED_AREA and not ({asked.condition} & set(made) if asked.condition else made):
            at = f", and the limit at the one with the most, {', '.join(made)}" if made else ""
            expected = "a set that is relearned for two numbers of steps, such as relearning-overlap-10 and -50"
            raise InputError("require", text, expected + at)


def _curves(conditions: Sequence[Condition]) -> list[dict[int, Condition]]:
    """For each set that is relearned for at least two numbers of steps, the attacks by their steps."""
    found: dict[str, dict[int, Condition]] = {}
    for condition in conditions:
        if condition.attack is not None and condition.displacement == Here() and condition.prompts is None:
            found.setdefault(condition.attack.source, {})[condition.attack.steps] = condition
    return [rungs for rungs in found.values() if len(rungs) > 1]


def _areas(
    scored: Mapping[_Key, Sequence[RecordScore]], subject: str, records: str, full: str, rungs: Mapping[int, Condition]
) -> list[tuple[str, float]]:
    """Group and area of each record that some seed asks."""
    steps = sorted(rungs)
    before = {score.record: score for score in scored.get((subject, full, records, None), ())}
    found: dict[str, list[float]] = {}
    for seed in rungs[steps[0]].seeds:
        asked = [
            {score.record: score.nll for score in scored.get((subject, rungs[count].info.name, records, seed), ())}
            for count in steps
        ]
        for record in asked[0]:
            if record in before and all(record in nll for nll in asked):
                back = [0.0, *(before[record].nll - nll[record] for nll in asked)]
                found.setdefault(record, []).append(float(np.trapezoid(back, [0, *steps])) / steps[-1])
    return [(before[record].group, float(np.mean(areas))) for record, areas in found.items()]


def _sample(areas: Sequence[tuple[str, float]]) -> Sample | None:
    """None where a score is not finite."""
    if not all(math.isfinite(area) for _, area in areas):
        return None
    return Sample([area for _, area in areas], [group for group, _ in areas])


def _measure(
    subject: str, condition: str, forget: Sample | None, control: Sample | None, n: int, criteria: Criteria
) -> Measure:
    if forget is None or control is None:
        return Measure(subject, condition, FORGET, RELEARNED_AREA, None, None, None, n)
    name = f"{RELEARNED_AREA}/{subject}/{condition}"
    generator = np.random.default_rng([criteria.bootstrap_seed, zlib.crc32(name.encode())])
    found = difference_interval(forget, control, generator, criteria.alpha, criteria.bootstrap_resamples)
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return Measure(subject, condition, FORGET, RELEARNED_AREA, found.value, low, high, n)
