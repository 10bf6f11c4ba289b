"""Ask a model questions before and after, at several conditions, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from remanent.auditing.backends.gguf_file import GivenGGUF
from remanent.auditing.condition import parse_conditions
from remanent.auditing.generation import generate
from remanent.auditing.standing import standing
from remanent.data.encode import prompt_ids
from remanent.data.record import Message, Record
from remanent.errors import InputError
from remanent.models.load import load


@dataclass(frozen=True)
class Asked:
    """A question and its greedy answers.

    Args:
        question: as asked.
        condition: at which.
        before: answer of the model before unlearning; None where it was not given.
        after: answer of the model after.
    """

    question: str
    condition: str
    before: str | None
    after: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the report."""
        return asdict(self)


def ask(
    model: str,
    questions: Sequence[str],
    at: str = "full",
    *,
    before: str | None = None,
    max_new_tokens: int = 48,
    system: str | None = None,
    autocast: torch.dtype | None = None,
) -> list[Asked]:
    """Ask questions of a saved model, and of the one before it.

    Args:
        model: folder or name of the model after.
        questions: plain questions; the tokenizer's chat template is put round them.
        at: conditions, separated by commas; attacks excepted, since they need data.
        before: folder or name of the model before.
        max_new_tokens: longest answer.
        system: system turn; None leaves it to the chat template.
        autocast: dtype of the arithmetic.
    """
    asked_for = {name.strip() for name in at.split(",")}
    conditions = [item for item in parse_conditions(at) if item.info.name != "full" or "full" in asked_for]
    for condition in conditions:
        if condition.info.kind not in ("full", "precision"):
            raise InputError("at", condition.info.name, "precisions; an attack needs data, and belongs to the audit")
        if isinstance(condition.backend, GivenGGUF):
            raise InputError("at", condition.info.name, "a precision that both models can be put to")
    turns = () if system is None else (Message("system", system),)
    records = [Record(question, question, (*turns, Message("user", question)), "") for question in questions]
    answers: dict[str, dict[str, list[str]]] = {}
    for side, name in (("before", before), ("after", model)):
        if name is None:
            continue
        loaded = load(name)
        prompts = [prompt_ids(record, loaded.tokenizer) for record in records]
        answers[side] = {}
        for condition in conditions:
            with standing(condition, loaded.model, loaded.tokenizer, loaded.source) as there:
                answers[side][condition.info.name] = generate(
                    there, loaded.tokenizer, prompts, max_new_tokens, autocast
                )
    return [
        Asked(
            question,
            condition.info.name,
            answers["before"][condition.info.name][index] if "before" in answers else None,
            answers["after"][condition.info.name][index],
        )
        for condition in conditions
        for index, question in enumerate(questions)
    ]
