"""From evidence to a verdict: each line is a test that can fail, and says why in figures.

What is forgotten is judged at every condition. What is kept is judged where the model is meant to be used, at full
precision and at the precisions, and not under attacks: an attacker who ruins the model's other knowledge has not shown
that the model's owner did. Where no forget set was measured, only what is kept is judged: against the original model,
or, where none was measured, against the audited model itself at full precision.

Without a control no line can pass that needs one: the line "control" is WARNED, and in their place the two lines that
can still fail are judged: whether the forgotten records are less known than before, and the retained ones not.

Limits that the criteria declare on measures are judged last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from remanent.auditing import kept
from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    RETRAINED,
    TEXT,
    ConditionInfo,
    Evidence,
)
from remanent.auditing.forgotten import absolute, not_overdone, power, relative, without_control
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
from remanent.auditing.membership_line import membership
from remanent.auditing.place import Finding, Missing, Place
from remanent.auditing.required_line import required_lines
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
        lines.extend(_data(evidence))
        if PARAPHRASED not in forgotten:
            notes.append("The forgotten records were not asked in other words: no paraphrases were measured.")
    if TEXT not in measured:
        notes.append("General text was not measured.")
    for condition in evidence.conditions:
        tried = _seeds(evidence, condition, forgotten)
        if forgotten and condition.random:
            lines.append(_repeated(condition, len(tried)))
        told = membership(evidence, criteria, condition.name)
        if told is not None:
            lines.append(_line("membership", condition, told))
        if any(item.condition == condition.name for item in evidence.measures) and not tried:
            continue  # answers were drawn there, and nothing scored that these lines are about
        asked = [records for records in forgotten if records == FORGET or _seeds(evidence, condition, [records])]
        lines.extend(_forgotten(evidence, criteria, condition, asked))
        if condition.kind in KEPT_KINDS:
            lines.extend(_kept(evidence, criteria, condition, bool(forgotten), TEXT in measured))
    lines.extend(required_lines(evidence.measures, criteria.require))
    if not lines:
        notes.append("Nothing was judged: there is neither a forget set nor a condition to compare with another.")
    return Judgement(overall(line.verdict for line in lines), tuple(lines), tuple(notes), criteria)


def _forgotten(
    evidence: Evidence, criteria: Criteria, condition: ConditionInfo, forgotten: Sequence[str]
) -> list[Line]:
    lines, gaps = [], []
    unseen = _has(evidence, AUDITED, CONTROL)
    for records in forgotten:
        tests: dict[str, Callable[[Place, str], Finding]] = {"relative": relative, "absolute": absolute}
        if not unseen:
            del tests["relative"]
            if not _has(evidence, RETRAINED, records):
                if condition.kind == "attack" or not _has(evidence, ORIGINAL, records):
                    continue  # nothing to hold it against; the line "control" says so
                tests["absolute"] = without_control
        for name, test in tests.items():
            finding = _worst(evidence, criteria, condition, records, test)
            lines.append(_line(f"forgotten-{name}{SUFFIX[records]}", condition, finding))
            if finding.detectable is not None:
                gaps.append(finding.detectable)
    if FORGET in forgotten and unseen:
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

    of_retain = kept.retention if not forgetting or _has(evidence, AUDITED, CONTROL) else kept.without_control

    def knowledge(place: Place, _: str) -> Finding:
        return of_retain(place, baseline, baseline_condition)

    def general(place: Place, _: str) -> Finding:
        return kept.general_text(place, baseline, baseline_condition)

    lines = [_line("kept", condition, _worst(evidence, criteria, condition, RETAIN, knowledge))]
    if text:
        lines.append(_line("general-text", condition, _worst(evidence, criteria, condition, TEXT, general)))
    return lines


def _has(evidence: Evidence, subject: str, records: str) -> bool:
    return any((item.subject, item.records) == (subject, records) for item in evidence.measurements)


def _control(evidence: Evidence) -> Line:
    sizes = [item.scores for item in evidence.measurements if (item.subject, item.records) == (AUDITED, CONTROL)]
    if not sizes:
        reason = (
            "No control was measured: without unseen records nothing tells forgetting from a known form of answer. "
            "The lines that compare with them were not judged, and no other line takes their place."
        )
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


def _data(evidence: Evidence) -> list[Line]:
    """Do the records come from the files that the model was unlearned with? Where the audit lies in a run's folder."""
    others = evidence.settings.get("other_records_than_the_run")
    if others is None:
        return []
    if not isinstance(others, (list, tuple)) or not all(isinstance(name, str) for name in others):
        raise InputError("other_records_than_the_run", others, "names of record sets")
    if not others:
        return [Line("data", "", PASSED, reason="Forget, retain and control are those of the run.")]
    names = ", ".join(others)
    reason = (
        f"Not the records that the run was given: {names}. Records that the method trained on may be among those that "
        "the audit took for unseen by it."
    )
    return [Line("data", "", WARNED, reason=reason)]


def _repeated(condition: ConditionInfo, seeds: int) -> Line:
    verdict = PASSED if seeds >= ASKED_SEEDS else WARNED
    reason = f"{condition.name} is random and was repeated over {seeds} seeds; {ASKED_SEEDS} are asked for."
    return Line("seeds", condition.name, verdict, value=float(seeds), threshold=float(ASKED_SEEDS), reason=reason)


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
