"""What the report says in words: the names of the judged lines, the verdict in a sentence, what was not tested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from remanent.auditing.evidence import CONTROL, FORGET, RETRAINED
from remanent.auditing.requirement import Requirement
from remanent.errors import InputError
from remanent.report.text import number
from remanent.report.view import FAILED, NOT_ASSESSABLE, PASSED, VERDICTS, WARNED, Line, RunView


@dataclass(frozen=True, slots=True)
class LineWords:
    """A judged line in words.

    Args:
        label: its name for people.
        asks: what it asks, as a question.
        failed: what is the matter where it failed, as a clause.
        warned: likewise where it is a warning; "" where a warning means that the data do not decide.
        unit: of its figures: "nats", "share", "factor" or "".
        bound: which side of the threshold is right: "≥", "≤", "±" (within it on either side) or "".
    """

    label: str
    asks: str
    failed: str = ""
    warned: str = ""
    unit: str = ""
    bound: str = ""


_RELATIVE = "Is it no better known than records that no model was taught? Forget NLL minus control NLL."
_ABSOLUTE = "Is it no better known than to a model that never saw it? Forget NLL minus the reference's."
WORDS = {
    "forgotten-relative": LineWords(
        "Forgotten, against unseen", _RELATIVE, "the forgotten is better known than the unseen", "", "nats", "≥"
    ),
    "forgotten-absolute": LineWords(
        "Forgotten, against reference",
        _ABSOLUTE,
        "the forgotten is better known than a reference allows",
        "",
        "nats",
        "≥",
    ),
    "forgotten-relative-paraphrased": LineWords(
        "Paraphrased, against unseen",
        f"The same in other words. {_RELATIVE}",
        "in other words, the forgotten is better known than the unseen",
        "",
        "nats",
        "≥",
    ),
    "forgotten-absolute-paraphrased": LineWords(
        "Paraphrased, against reference",
        f"The same in other words. {_ABSOLUTE}",
        "in other words, the forgotten is better known than a reference allows",
        "",
        "nats",
        "≥",
    ),
    "kept": LineWords(
        "Kept",
        "How much of what the original knew beyond the unseen is still known? 1 is all, 0 is none.",
        "too little was kept",
        "it is open whether enough was kept",
        "share",
        "≥",
    ),
    "general-text": LineWords(
        "General text",
        "By what factor did perplexity on general text change?",
        "general text is predicted worse",
        "it is open whether general text suffered",
        "factor",
        "≤",
    ),
    "not-overdone": LineWords(
        "Not overdone",
        "Is the forgotten about as well known as the unseen? A hole marks the deleted records too.",
        "the forgotten is far less known than the unseen",
        "the forgotten stands out as less known than the unseen",
        "nats",
        "≤",
    ),
    "membership": LineWords(
        "Membership not told",
        "How far is the AUC of the best membership attack, forget against unseen, from chance or from a retrained "
        "model's? Far above: remembered; far below: a hole marks the records.",
        "an attacker can tell the forgotten records from unseen ones",
        "an attacker can tell the forgotten records from unseen ones",
        "",
        "±",
    ),
    "power": LineWords(
        "Power",
        "What is the smallest gap that the audit would have seen four times in five?",
        "the audit is too small to see a gap of the tolerated size",
        "the audit is too small to see a gap of the tolerated size",
        "nats",
        "≤",
    ),
    "control": LineWords(
        "Control",
        "Are there unseen records to compare with?",
        "there are no unseen records to compare with",
        "there are no unseen records to compare with",
    ),
    "data": LineWords(
        "Data",
        "Are the records those that the run was given?",
        "the records are not those of the run",
        "the records are not those of the run",
    ),
    "seeds": LineWords(
        "Seeds",
        "Was a random attack repeated often enough?",
        "a random attack was repeated too seldom",
        "a random attack was repeated too seldom",
        "",
        "≥",
    ),
    "overlap": LineWords(
        "Overlap",
        "Do forgotten and other records share text?",
        "forgotten and other records overlap",
        "forgotten and other records overlap",
    ),
}


def words_of(name: str) -> LineWords:
    """The words for a line; for one that this version does not know, its name."""
    if name in WORDS:
        return WORDS[name]
    try:
        asked = Requirement.parse(name)
    except InputError:
        return LineWords(name, "", f"{name} does not hold")
    bound = "≥" if asked.at_least else "≤"
    label = asked.measure + (f", {asked.records}" if asked.records else "")
    question = f"Does {label} keep the limit that was declared, {bound} {asked.limit_text}?"
    return LineWords(label, question, f"{label} is not {bound} {asked.limit_text}", "", "", bound)


def clause(line: Line) -> str:
    """What is the matter with a line that did not pass."""
    words = words_of(line.name)
    if line.verdict == FAILED:
        return words.failed
    if line.verdict == WARNED:
        return words.warned or f"the data do not decide whether {words.failed}"
    return f"“{words.label}” could not be judged"


def figure(name: str, value: float | None) -> str:
    """A line's figure in its unit."""
    unit = words_of(name).unit
    if value is None:
        return ""
    return f"× {number(value)}" if unit == "factor" else number(value)


def headline(run: RunView) -> str:
    """The verdict in one or two plain sentences, of which each part can be found in the tables below it."""
    total = len(run.lines)
    if run.verdict == PASSED:
        return f"Each of the {total} lines held, at each of the {len(run.evidence.conditions)} conditions."
    found = [line for line in run.lines if line.verdict == run.verdict]
    start = {
        FAILED: f"{len(found)} of {total} lines failed",
        NOT_ASSESSABLE: f"{len(found)} of {total} lines could not be judged",
        WARNED: f"No line failed, but {len(found)} of {total} did not pass",
    }[run.verdict]
    clauses = _clauses(found)
    return f"{start}: {'; '.join(clauses)}." if clauses else f"{start}."


def untested(run: RunView) -> list[str]:
    """What this audit says nothing about, from what is missing in it and from what no audit of this kind covers."""
    evidence = run.evidence
    subjects = {item.subject for item in evidence.measurements}
    records = {item.records for item in evidence.measurements}
    kinds = {info.kind for info in evidence.conditions}
    generated = any(score.rouge_l is not None for item in evidence.measurements for score in item.scores)
    judged_forgetting = FORGET in records
    found = [
        (judged_forgetting and RETRAINED not in subjects, "No retrained model was compared."),
        (CONTROL not in records, "No unseen control was scored: nothing separates forgetting from a changed format."),
        ("precision" not in kinds, "No rounded precision was audited: once quantized, the model may answer again."),
        ("attack" not in kinds, "No attack that trains the model further was run."),
        (not generated, "No answers were generated: scores are teacher forced."),
    ]  # fmt: skip
    standing = [
        "Other precisions, quantizers, attacks, prompts, languages and samplings than those listed.",
        "Copies: the original model, earlier checkpoints, backups and quantized copies still hold what was forgotten.",
    ]
    return [sentence for missing, sentence in found if missing] + standing


def _clauses(lines: Sequence[Line]) -> list[str]:
    """One clause a kind of problem, with the conditions at which it shows."""
    where: dict[str, list[str]] = {}
    for line in lines:
        places = where.setdefault(clause(line), [])
        if line.condition is not None and line.condition not in places:
            places.append(line.condition)
    return [problem + (f" at {listed(places)}" if places else "") for problem, places in where.items()]


@dataclass(frozen=True, slots=True)
class Problem:
    """The lines of one name and verdict that did not pass.

    Args:
        conditions: where, in the order in which they were judged; empty where the whole audit is meant.
        worst: the line that lies furthest on the wrong side.
    """

    label: str
    verdict: str
    conditions: tuple[str, ...]
    worst: Line


def problems(run: RunView) -> list[Problem]:
    """What did not pass, one entry a name and verdict, what failed first."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in run.lines:
        if line.verdict != PASSED:
            groups.setdefault((line.verdict, line.name), []).append(line)
    found = []
    for verdict, name in sorted(groups, key=lambda key: VERDICTS.index(key[0])):
        lines = groups[verdict, name]
        worst = min(lines, key=_goodness)
        conditions = tuple(line.condition for line in lines if line.condition is not None)
        found.append(Problem(words_of(name).label, verdict, conditions, worst))
    return found


def _goodness(line: Line) -> float:
    """Lower is further on the wrong side."""
    if line.value is None:
        return math.inf
    return {"≤": -line.value, "±": -abs(line.value)}.get(words_of(line.name).bound, line.value)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
