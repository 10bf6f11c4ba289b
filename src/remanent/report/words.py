"""What the report says in words: the names of the judged lines, the verdict in a sentence, what was not tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remanent.audit.evidence import CONTROL, PARAPHRASED, RETRAINED, TEXT
from remanent.report.text import number
from remanent.report.view import FAILED, NOT_ASSESSABLE, PASSED, WARNED, Line, RunView


@dataclass(frozen=True, slots=True)
class LineWords:
    """A judged line in words.

    Args:
        label: its name for people.
        asks: what it asks, as a question.
        problem: what is the matter where it does not hold, as a clause.
        unit: of its figures: "nats", "share", "factor" or "".
        bound: which side of the threshold is right: "≥", "≤" or "".
    """

    label: str
    asks: str
    problem: str
    unit: str = ""
    bound: str = ""


WORDS = {
    "forgotten-relative": LineWords(
        "Forgotten, against unseen",
        "Is the forgotten no better known than records that were never taught? Forget NLL minus control NLL.",
        "the forgotten records are better known than unseen ones",
        "nats",
        "≥",
    ),
    "forgotten-absolute": LineWords(
        "Forgotten, against reference",
        "Is the forgotten no better known than to a model that never saw it? Forget NLL minus the reference's.",
        "the forgotten records are better known than to the reference",
        "nats",
        "≥",
    ),
    "kept": LineWords(
        "Kept",
        "How much of what the original knew beyond the unseen is still known? 1 is all, 0 is none.",
        "too little was kept",
        "share",
        "≥",
    ),
    "general-text": LineWords(
        "General text",
        "By what factor did perplexity on general text change?",
        "general text is predicted worse",
        "factor",
        "≤",
    ),
    "not-overdone": LineWords(
        "Not overdone",
        "Is the forgotten no less known than unseen records? A hole marks the deleted records too.",
        "the forgotten records are far less known than unseen ones, which marks them",
        "nats",
        "≤",
    ),
    "power": LineWords(
        "Power",
        "Would the audit have seen a gap as large as the tolerance? Smallest detectable gap.",
        "the audit is too small to see a gap of the tolerated size",
        "nats",
        "≤",
    ),
    "control": LineWords(
        "Control", "Is there a set of unseen records to compare with?", "there is no unseen control to compare with"
    ),
    "overlap": LineWords(
        "Overlap", "Do forgotten and retained records share text?", "forgotten and retained records overlap"
    ),
}


def words_of(name: str) -> LineWords:
    """The words for a line; for one that this version does not know, its name."""
    return WORDS.get(name) or LineWords(name, "", f"{name} does not hold")


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
        WARNED: f"No line failed; a reader has to judge {len(found)} of {total}",
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
    found = [
        (RETRAINED not in subjects, "No retrained model was compared: only the original, on unseen records."),
        (CONTROL not in records, "No unseen control was scored: nothing separates forgetting from a changed format."),
        (PARAPHRASED not in records, "No paraphrases were scored: the forget questions were asked in one wording."),
        (TEXT not in records, "General text was not scored."),
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
        places = where.setdefault(words_of(line.name).problem, [])
        if line.condition is not None and line.condition not in places:
            places.append(line.condition)
    return [problem + (f" at {listed(places)}" if places else "") for problem, places in where.items()]


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
