"""BLUR's data set by name: questions and relearning sets where forget and retain meet (arXiv 2506.15699)."""

from __future__ import annotations

from pathlib import Path

from remanent.data.hub import hub_rows
from remanent.data.jsonl import read_rows
from remanent.data.record import Record
from remanent.data.rows import RowReader
from remanent.errors import DataError, InputError, did_you_mean

REPOSITORY = "forgelab/BLUR"
LEAST = "D_lo"  # one for all tasks
_EVERY = ("forget", "retain", "paired_forget_retain", "D_hi", "D_mid")
_VARIANTS = {
    "rwku": _EVERY,
    "whp": _EVERY,
    "tofu": ("paired_forget_retain",),
    "wmdp": tuple(variant for variant in _EVERY if variant != "forget"),
}
NAMES = (*(f"{task}/{variant}" for task, variants in _VARIANTS.items() for variant in variants), LEAST)
_ANSWER, _PAIRED = "Answer:", "paired_forget_retain"


def blur(name: str, folder: str | Path | None = None, role: str = "blur", answered: bool = True) -> list[Record]:
    """A part of BLUR; each record is its own group.

    Rows have one field, `text`. In the relearning sets it is plain text. In the others it is a question, whose answer
    may follow "Answer:"; pairs are combined already. Where answers are missing nothing can be scored yet: the benchmark
    holds an unlearned model's answers against those of the model before.

    Args:
        name: "rwku", "whp", "tofu" or "wmdp", a slash, and forget, retain, paired_forget_retain, D_hi or D_mid, as far
            as the hub has them; or "D_lo".
        folder: where to look first, for <task>_<variant>.jsonl (D_lo_for_all.jsonl); then the hub.
        role: the setting that named it, for errors.
        answered: whether questions must have answers; pairs must in any case, since what a model says to two questions
            in one prompt is not the answer to either.

    Raises:
        InputError: where there is no such part, the hub cannot give it, or it holds questions without answers.
        DataError: where a row is wrong.
    """
    if name not in NAMES:
        raise InputError(role, f"blur:{name}", did_you_mean(name, NAMES))
    config = "D_lo_for_all" if name == LEAST else name.replace("/", "_")
    path = Path(folder) / f"{config}.jsonl" if folder is not None else None
    if path is not None and path.is_file():
        source, rows = str(path), read_rows(path, role)
    else:
        source, rows = f"{REPOSITORY}:{config}", hub_rows(REPOSITORY, config, "train", role)
    asks = "D_" not in name
    answered = answered or not asks or name.endswith(_PAIRED)
    reader = RowReader(source, role, answered)
    return [
        reader.read(_row(row, f"blur/{name}/{place:04d}", asks, answered, source, line), line)
        for place, (line, row) in enumerate(rows)
    ]


def _row(row: object, key: str, asks: bool, answered: bool, source: str, line: int) -> object:
    if not isinstance(row, dict):
        return row
    if not asks or "answer" in row:
        return {**row, "key": key}
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError(source, line, "text", f"holds {type(text).__name__}; expected text")
    question, mark, answer = text.rpartition(_ANSWER)
    if not mark:
        question = text
    found = {"question": question.strip().removeprefix("Question:").strip(), "key": key}
    if mark and answer.strip():
        return {**found, "answer": answer.strip()}
    if answered:
        expected = "questions with their answers; these have none"
        expected += " (an audit with --reference takes forget and retain questions, and the reference's own answers)"
        raise InputError("records", f"{source}, row {line}", expected)
    return found
