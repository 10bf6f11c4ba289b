"""In which words, and after what, records are asked: part of what a condition is, and no matter of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from remanent.data.record import Message, Record
from remanent.errors import InputError


class Prompts(Protocol):
    """Another way of asking. Implementations are frozen dataclasses, whose repr names them in stored measurements."""

    def __call__(self, records: Sequence[Record]) -> list[Record]:
        """The records as they are asked: as many, in the same order, with their keys and groups."""
        ...


@dataclass(frozen=True, slots=True)
class FewShot:
    """Solved examples before the question, as turns of the same conversation: they show the form that is asked for.

    Args:
        count: how many.
        examples: records to take them from; no record is asked after one of its own group. Left out of the repr, which
            is written down: what is asked is part of the measurements' key anyway.
    """

    count: int
    examples: tuple[Record, ...] = field(default=(), repr=False)

    def given(self, records: Sequence[Record]) -> FewShot:
        """With examples: the first question of each group, in order.

        Raises:
            InputError: where there are too few groups to leave one's own out.
        """
        firsts: dict[str, Record] = {}
        for record in records:
            if record.prompt:
                firsts.setdefault(record.group, record)
        if len(firsts) <= self.count:
            expected = f"retain records with questions, of at least {self.count + 1} groups in the audit split"
            raise InputError("at", f"few-shot-{self.count}, {len(firsts)} groups", expected)
        return replace(self, examples=tuple(firsts.values()))

    def __call__(self, records: Sequence[Record]) -> list[Record]:
        """The records, each after its examples; plain text, which asks nothing, as it is."""
        return [self._after_examples(record) if record.prompt else record for record in records]

    def _after_examples(self, record: Record) -> Record:
        shown = [example for example in self.examples if example.group != record.group][: self.count]
        turns = [
            turn
            for example in shown
            for turn in (*_without_system(example.prompt), Message("assistant", example.answer))
        ]
        system = [turn for turn in record.prompt if turn.role == "system"]
        return replace(record, prompt=(*system, *turns, *_without_system(record.prompt)))


def _without_system(prompt: Sequence[Message]) -> list[Message]:
    return [turn for turn in prompt if turn.role != "system"]
