"""Answers to prefer to the one that is to be forgotten: a refusal, or another answer of the same form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from remanent.core.sampling import seed_of
from remanent.data.entity_swap import strangers, unseen
from remanent.data.record import Record
from remanent.errors import InputError

REFUSALS = (
    "I don't know.",
    "I do not know the answer to that.",
    "That is something I don't know.",
    "I have no idea.",
    "I'm afraid I don't know.",
    "I can't say.",
    "I couldn't tell you.",
    "I have no information about that.",
    "Nothing about this is known to me.",
    "I don't have an answer to this question.",
    "Sorry, that is beyond what I know.",
    "Sorry, I cannot answer that.",
    "I'm sorry, but I have never learned this.",
    "That isn't something I can answer.",
    "I am not able to answer this.",
    "This is not something that I know about.",
    "My knowledge does not reach that far.",
    "I haven't heard of that.",
    "I have not come across this before.",
    "I know nothing about it.",
    "You would have to ask somebody else.",
    "I'm not sure, so I'd rather not guess.",
    "I would only be guessing, so I won't answer.",
    "I can't help with this question, since I don't know the answer.",
    "The answer to this is unknown to me.",
    "I lack the facts to answer that.",
    "That is a question I have no answer for.",
    "I never learned anything about that.",
    "There is nothing I could tell you about this.",
    "I'm not familiar with that.",
    "I am unable to say.",
    "It is not in my knowledge.",
    "I wish I knew, but I don't.",
    "Unfortunately I don't know.",
    "Unfortunately I have no details on this.",
    "Please look this up elsewhere; I don't know it.",
    "I don't recall anything of the kind.",
    "I cannot give you this information, since I do not have it.",
    "No answer comes to my mind.",
    "I must admit that I don't know.",
)


def refusals(records: Sequence[Record], seed: int) -> list[Record]:
    """The records with a refusal each in the answer's place, in order.

    Args:
        records: questions; each keeps its key, its group and its prompt.
        seed: with a record's key, picks the refusal, so that a record's does not depend on the others.

    Raises InputError for plain text, which asks nothing that could be refused.
    """
    for record in records:
        if not record.prompt:
            raise InputError(
                f"record {record.key}", "plain text", "a question, since a refusal takes an answer's place"
            )
    return [_answered(record, _pick("refusal", REFUSALS, record, seed)) for record in records]


def alternatives(records: Sequence[Record], seed: int) -> list[Record]:
    """The records with one of their own wrong answers each in the answer's place; arguments as for `refusals`.

    Raises InputError for a record that has none.
    """
    for record in records:
        if not record.wrong_answers:
            raise InputError(f"record {record.key}: wrong_answers", None, "at least one answer to prefer")
    return [_answered(record, _pick("alternative", record.wrong_answers, record, seed)) for record in records]


# The role of a method that asks for records made from the forget records -> what makes them, of these records, a seed
# and the records that are to be kept.
PREFERRED: Mapping[str, Callable[[Sequence[Record], int, Sequence[Record]], list[Record]]] = {
    "refusal": lambda records, seed, _: refusals(records, seed),
    "alternative": lambda records, seed, _: alternatives(records, seed),
    "stranger": strangers,
    "unseen": unseen,
}


def _pick(purpose: str, answers: Sequence[str], record: Record, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed_of(seed, purpose, record.key))
    return answers[int(torch.randint(len(answers), (1,), generator=generator))]


def _answered(record: Record, answer: str) -> Record:
    return replace(record, answer=answer, paraphrased_prompt=(), paraphrased_answer="", wrong_answers=())
