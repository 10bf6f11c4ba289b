"""The reference model's own answers in the place of those that questions lack, as BLUR's do.

BLUR (arXiv 2506.15699) holds an unlearned model's answers against those of the model before it. So what that model says
counts as right, wrong or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from remanent.auditing.generation import generate
from remanent.data.encode import prompt_ids
from remanent.data.record import Record
from remanent.errors import InputError
from remanent.jobs.data import JobData, best_device
from remanent.jobs.progress import Interface
from remanent.models.load import Loaded, load

ROOM = 64  # tokens of an answer


def reference_answers(
    data: JobData,
    reference: str | None,
    *,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
    interface: Interface | None = None,
) -> tuple[JobData, tuple[str, ...]]:
    """The data with an answer to every question that an audit asks, and sentences that say whose the answers are.

    Greedy answers of at most 64 tokens to each question alone. Questions that are answered with nothing are left out.

    Args:
        data: some of whose forgotten, retained or control records may have no answer.
        reference: folder or name of the model before unlearning.
        batch_size: questions per pass.
        autocast: dtype of the arithmetic.
        interface: where progress goes; None is silent.

    Raises InputError where answers are missing and there is no reference, or it answers nothing.
    """
    lacking = {
        "forget": _lacking(data.forget),
        "retain": _lacking(data.retain.get("audit", [])),
        "control": _lacking(data.control.get("audit", [])),
    }
    count = sum(map(len, lacking.values()))
    if not count:
        return data, ()
    if reference is None:
        expected = f"the model before unlearning: {count} questions have no answers, and its own stand for them"
        raise InputError("reference", "none", expected)
    loaded = load(reference, device=best_device())
    found: dict[str, dict[str, str]] = {}
    with (interface or Interface()).bar("answers of the reference") as advance:
        done = 0
        for role, records in lacking.items():
            found[role] = {}
            for start in range(0, len(records), batch_size):
                some = records[start : start + batch_size]
                found[role] |= _answers(loaded, some, autocast)
                done += len(some)
                advance(done, count, role)

    def filled(role: str, records: Sequence[Record]) -> list[Record]:
        own = [_answered(record, found[role]) for record in records]
        own = [record for record in own if record.answer]
        if records and not own:
            raise InputError(role, f"{len(records)} questions", "questions that the reference answers with anything")
        return own

    notes = [
        f"The answers of {len(found[role])} of {len(records)} {role} questions that have none are the original model's "
        "own, greedy"
        + ("; the others it answers with nothing, and they are left out." if len(found[role]) < len(records) else ".")
        for role, records in lacking.items()
        if records
    ]
    made = replace(
        data,
        forget=filled("forget", data.forget),
        retain=_with(data.retain, filled("retain", data.retain.get("audit", []))),
        control=_with(data.control, filled("control", data.control.get("audit", []))),
    )
    return made, tuple(notes)


def _lacking(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.prompt and not record.answer]


def _answered(record: Record, answers: Mapping[str, str]) -> Record:
    """The record with the answer found for it, which is part of its key: answered otherwise, it is another record."""
    if record.answer or record.key not in answers:
        return record
    answer = answers[record.key]
    digest = hashlib.sha256(answer.encode()).hexdigest()[:16]
    return replace(record, key=f"{record.key}, answered {digest}", answer=answer)


def _answers(loaded: Loaded, records: Sequence[Record], autocast: torch.dtype | None) -> dict[str, str]:
    """Key -> answer, of those that have one."""
    prompts = [prompt_ids(record, loaded.tokenizer) for record in records]
    answers = generate(loaded.model, loaded.tokenizer, prompts, ROOM, autocast)
    return {record.key: answer.strip() for record, answer in zip(records, answers, strict=True) if answer.strip()}


def _with(splits: Mapping[str, list[Record]], audited: list[Record]) -> Mapping[str, list[Record]]:
    return {**splits, "audit": audited} if "audit" in splits else splits
