"""From evidence to a verdict: each line is a test that can fail, and says why in figures.

What is forgotten is judged at every condition. What is kept is judged where the model is meant to be used, at full
precision and at the precisions, and not under attacks: an attacker who ruins the model's other knowledge has not shown
that the model's owner did. Where no forget set was measured, only what is kept is judged: against the original model,
or, where none was measured, against the audited model itself at full precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    TEXT,
    ConditionInfo,
    Evidence,
)
from remanent.auditing.forgotten import absolute, not_overdone, power, relative
from remanent.auditing.judgement import (
    NOT_ASSESSABLE,
    PASSED,
    VERDICTS,
    WARNED,
    Criteria,
    Judgement,
    Line,
    overall,
)
from remanent.auditing.kept import general_text, retention
from remanent.auditing.place import Finding, Missing, Place
from remanent.errors import InputError

KEPT_KINDS = ("full", "precision")
ASKED_SEEDS = 3
SUFFIX = {FORGET: "", PARAPHRASED: "-paraphrased"}


def judge(evidence: Evidence) -> Judgement:
    """The verdict on an audit's evidence, by the criteria that its settings declare.

    Raises:
        InputError: where a criterion in the settings is out of its range.
    """
    criteria = Criteria.from_settings(evidence.settings)
    measured = {item.records for item in evidence.measurements if item.subject == AUDITED}
    forgotten = [records for records in (FORGET, PARAPHRASED) if records in measured]
    lines: list[Line] = []
    notes = list(evidence.notes)
    if forgotten:
        lines.append(_control(evidence))
        lines.extend(_overlap(evidence))
        if PARAPHRASED not in forgotten:
            notes.append("The forgotten records were not asked in other words: no paraphrases were measured.")
    if TEXT not in measured:
        notes.append("General text was not measured.")
    for condition in evidence.conditions:
        tried = _seeds(evidence, condition, forgotten)
        if forgotten and condition.random and len(tried) < ASKED_SEEDS:
            notes.append(f"{condition.name} was repeated over {len(tried)} seeds, not {ASKED_SEEDS}.")
        asked = [records for records in forgotten if records == FORGET or _seeds(evidence, condition, [records])]
        lines.extend(_forgotten(evidence, criteria, condition, asked))
        if condition.kind in KEPT_KINDS:
            lines.extend(_kept(evidence, criteria, condition, bool(forgotten), TEXT in measured))
    if not lines:
        notes.append("Nothing was judged: there is neither a forget set nor a condition to compare with another.")
    return Judgement(overall(line.verdict for line in lines), tuple(lines), tuple(notes), criteria)


def _forgotten(
    evidence: Evidence, criteria: Criteria, condition: ConditionInfo, forgotten: Sequence[str]
) -> list[Line]:
    lines, gaps = [], []
    for records in forgotten:
        for name, test in (("relative", relative), ("absolute", absolute)):
            finding = _worst(evidence, criteria, condition, records, test)
            lines.append(_line(f"forgotten-{name}{SUFFIX[records]}", condition, finding))
            if finding.detectable is not None:
                gaps.append(finding.detectable)
    if FORGET in forgotten:
        lines.append(_line("not-overdone", condition, _worst(evidence, criteria, condition, FORGET, not_overdone)))
    if gaps:
        lines.append(_line("power", condition, power(max(gaps), criteria)))
    return lines


def _kept(evidence: Evidence, criteria: Criteria, condition: ConditionInfo, forgetting: bool, text: bool) -> list[Line]:
    baseline, baseline_condition = ORIGINAL, condition.name
    if not forgetting and not any(item.subject == ORIGINAL for item in evidence.measurements):
        full = next((item.name for item in evidence.conditions if item.kind == "full"), condition.name)
        baseline, baseline_condition = AUDITED, full
        if condition.name == full:
            return []

    def knowledge(place: Place, _: str) -> Finding:
        return retention(place, baseline, baseline_condition)

    def general(place: Place, _: str) -> Finding:
        return general_text(place, baseline, baseline_condition)

    lines = [_line("kept", condition, _worst(evidence, criteria, condition, RETAIN, knowledge))]
    if text:
        lines.append(_line("general-text", condition, _worst(evidence, criteria, condition, TEXT, general)))
    return lines


def _control(evidence: Evidence) -> Line:
    sizes = [item.scores for item in evidence.measurements if (item.subject, item.records) == (AUDITED, CONTROL)]
    if not sizes:
        reason = "No control was measured: without unseen records nothing tells forgetting from a known form of answer."
        return Line("control", "", WARNED, reason=reason)
    groups = len({score.group for score in sizes[0]})
    return Line("control", "", PASSED, reason=f"Unseen control: {len(sizes[0])} records of {groups} groups.")


def _overlap(evidence: Evidence) -> list[Line]:
    count = evidence.settings.get("overlap")
    if count is None:
        return []
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError("overlap", count, "how many retain and control records overlap with the forget set")
    reason = f"Retain and control records that overlap with the forget set: {count}."
    return [Line("overlap", "", WARNED if count else PASSED, value=float(count), threshold=0.0, reason=reason)]


def _worst(
    evidence: Evidence,
    criteria: Criteria,
    condition: ConditionInfo,
    records: str,
    test: Callable[[Place, str], Finding],
) -> Finding:
    """The worst finding over the seeds of a condition, naming its seed."""
    seeds = _seeds(evidence, condition, [records]) or [None]
    findings = []
    for seed in seeds:
        try:
            findings.append(test(Place(evidence, criteria, condition, seed), records))
        except Missing as missing:
            findings.append(Finding(NOT_ASSESSABLE, str(missing)))
    order = [(-VERDICTS.index(finding.verdict), finding.margin) for finding in findings]
    worst = min(range(len(seeds)), key=order.__getitem__)
    if len(seeds) == 1:
        return findings[worst]
    seen = f" This is seed {seeds[worst]}, the worst of {', '.join(map(str, seeds))}."
    return replace(findings[worst], reason=findings[worst].reason + seen)


def _seeds(evidence: Evidence, condition: ConditionInfo, records: Sequence[str]) -> list[int | None]:
    found = {
        item.seed
        for item in evidence.measurements
        if item.subject == AUDITED and item.condition == condition.name and item.records in records
    }
    return sorted(found, key=lambda seed: -1 if seed is None else seed)


def _line(name: str, condition: ConditionInfo, finding: Finding) -> Line:
    found = finding.interval
    figures = (found.value, found.low, found.high) if found else (None, None, None)
    value, low, high, detectable = (
        None if figure is None or not math.isfinite(figure) else figure for figure in (*figures, finding.detectable)
    )
    return Line(name, condition.name, finding.verdict, value, low, high, finding.threshold, detectable, finding.reason)
