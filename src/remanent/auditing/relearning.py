"""What somebody fine-tunes a model on, to bring back what it forgot, and what is then asked: never the same records."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar

import torch

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    CONTROL_PARAPHRASED,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    TEXT,
)
from remanent.core.sampling import seed_of
from remanent.data.record import Record
from remanent.data.similarity import nearest_similarity
from remanent.errors import InputError

# What is asked under an attack: it is judged by what comes back, not by what else suffers.
ATTACKED = (FORGET, PARAPHRASED, CONTROL, CONTROL_PARAPHRASED)
Source = Literal["overlap", "unrelated", "hi", "mid", "lo"]
LEAK = 5  # words in a row of an asked answer that no relearned record may hold
_WORD = re.compile(r"\w+")


class Part(Protocol):
    """Records of one kind, of which some can be taken."""

    @property
    def records(self) -> Sequence[Record]: ...

    def where(self, chosen: Callable[[Record], bool]) -> Self: ...

    def __len__(self) -> int: ...


P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class RelearningAttack:
    """Somebody fine-tunes the model.

    Args:
        source: on what. "overlap": half of the forgotten groups, the other half being asked; "unrelated": general text.
            BLUR's sets, by how much they have in common with the forget set: "hi": half of each forgotten group's
            records, the other half being asked; "mid": retained records, those most like the forgotten ones; "lo":
            general text. From these three, whatever holds LEAK words in a row of an asked answer is taken out.
        steps: updates of AdamW.
        learning_rate: constant; above 0.
        batch_size: records per update.
    """

    source: Source
    steps: int = 50
    learning_rate: float = 2e-5
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise InputError("attack_learning_rate", self.learning_rate, "a finite learning rate above 0, such as 2e-5")

    @property
    def overlap(self) -> bool:
        """Whether a part of what was forgotten is relearned group by group, of which it takes two."""
        return self.source == "overlap"

    @property
    def graded(self) -> bool:
        """Whether what is relearned is one of BLUR's sets."""
        return self.source in ("hi", "mid", "lo")

    def check(
        self,
        name: str,
        named: Mapping[str, Sequence[Record]],
        original: bool,
        seeds: Sequence[int | None] = (None,),
    ) -> None:
        """Can it be tried on these records?

        Args:
            name: of the condition.
            named: set -> records.
            original: whether the original model is attacked too, whose matching question is to a part of the control.
            seeds: over which it is repeated.

        Raises:
            InputError: where it cannot.
        """
        if self.source in ("unrelated", "lo") and TEXT not in named:
            raise InputError("at", name, "general text to relearn from")
        if self.source == "mid" and RETAIN not in named:
            raise InputError("at", name, "a retain set to relearn from")
        if self.source == "unrelated":
            return
        if FORGET not in named:
            raise InputError("at", name, "a forget set, which is relearned in part or asked")
        if self.source in ("overlap", "hi"):
            self._check_groups(name, named, original)
        if self.graded:
            # What holds an asked answer is taken out: is anything left?
            sets = {role: _Records(records) for role, records in named.items()}
            for subject in (AUDITED, *((ORIGINAL,) if original and CONTROL in named else ())):
                for seed in seeds if self.source == "hi" else seeds[:1]:
                    relearned(self, subject, sets, seed or 0)

    def _check_groups(self, name: str, named: Mapping[str, Sequence[Record]], original: bool) -> None:
        for role in (FORGET, *((CONTROL,) if original and CONTROL in named else ())):
            groups = [record.group for record in named[role]]
            if self.overlap and len(set(groups)) < 2:
                raise InputError("at", name, f"{role} records of at least 2 groups, one to relearn and one to ask")
            if not self.overlap and len(set(groups)) == len(groups):
                expected = f"a {role} group of at least 2 records, one to relearn and one to ask"
                raise InputError("at", name, expected)


@dataclass(frozen=True)
class _Records:
    """Records before there is a tokenizer, to see which would be relearned."""

    records: Sequence[Record]

    def where(self, chosen: Callable[[Record], bool]) -> _Records:
        return _Records([record for record in self.records if chosen(record)])

    def __len__(self) -> int:
        return len(self.records)


def relearned(attack: RelearningAttack, subject: str, sets: Mapping[str, P], seed: int) -> tuple[P, dict[str, P]]:
    """The records that are relearned, and the sets that are then asked.

    Args:
        attack: how.
        subject: whose weights are attacked. The original model knows the forget set; the matching question to it is a
            part of the control.
        sets: name -> records.
        seed: decides which part is relearned.

    Raises:
        InputError: where nothing is left to relearn.
    """
    asked = {name: part for name, part in sets.items() if name in ATTACKED}
    if attack.source == "unrelated":
        return _of(sets, TEXT), asked
    if attack.source == "lo":
        return _without_answers(attack, _of(sets, TEXT), asked, subject), asked
    if attack.source == "mid":
        return _without_answers(attack, _most_like(_of(sets, RETAIN), asked, subject), asked, subject), asked
    source = CONTROL if subject == ORIGINAL else FORGET
    part = _of(sets, source)
    pool = part.records
    if attack.overlap:
        most = len({record.group for record in sets[FORGET].records}) if FORGET in sets else None
        taken = _half_of_groups(pool, most, seed)
    else:
        taken = _half_of_each_group(pool, seed)
    of_source = (CONTROL, CONTROL_PARAPHRASED) if source == CONTROL else (FORGET, PARAPHRASED)
    asked = {
        name: part.where(lambda record: record.key not in taken) if name in of_source else part
        for name, part in sets.items()
        if name in of_source or name in (CONTROL, CONTROL_PARAPHRASED)
    }
    found = part.where(lambda record: record.key in taken)
    return found if attack.overlap else _without_answers(attack, found, asked, subject), asked


def likeness(part: Part, asked: Mapping[str, Part], subject: str) -> list[float]:
    """How much each relearned record has in common with what is asked: its largest TF-IDF cosine, in [0, 1]."""
    return nearest_similarity(_texts(part.records), _texts(questioned(asked, subject)))


def _of(sets: Mapping[str, P], name: str) -> P:
    if name not in sets:
        raise InputError(name, "none", f"a {name} set, which is relearned")
    return sets[name]


def _half_of_groups(pool: Sequence[Record], most: int | None, seed: int) -> set[str]:
    groups = sorted({record.group for record in pool})
    if len(groups) < 2:
        raise InputError("groups", f"{len(groups)} group", "at least 2 groups, one to relearn and one to ask")
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed_of(seed, "relearned groups")))
    count = min(most or len(groups), len(groups)) // 2
    chosen = {groups[index] for index in order[:count].tolist()}
    return {record.key for record in pool if record.group in chosen}


def _half_of_each_group(pool: Sequence[Record], seed: int) -> set[str]:
    keys: dict[str, list[str]] = {}
    for record in pool:
        keys.setdefault(record.group, []).append(record.key)
    return {
        key
        for group, found in keys.items()
        for key in sorted(found, key=lambda name: seed_of(seed, "relearned records", group, name))[: len(found) // 2]
    }


def questioned(asked: Mapping[str, Part], subject: str) -> Sequence[Record]:
    """The records that are to come back."""
    name = CONTROL if subject == ORIGINAL else FORGET
    return asked[name].records if name in asked else []


def _most_like(part: P, asked: Mapping[str, Part], subject: str) -> P:
    """As many as there are questions, and at most half, so that the choice means something."""
    near = likeness(part, asked, subject)
    order = sorted(range(len(near)), key=lambda row: (-near[row], row))
    count = max(1, min(len(questioned(asked, subject)), len(order) // 2))
    keys = {part.records[row].key for row in order[:count]}
    return part.where(lambda record: record.key in keys)


def _without_answers(attack: RelearningAttack, part: P, asked: Mapping[str, Part], subject: str) -> P:
    answers = {gram for record in questioned(asked, subject) for gram in _grams(record.answer)}
    found = part.where(lambda record: not answers & _grams(f"{record.question} . {record.answer}"))
    if not len(found):
        expected = f"records that do not hold {LEAK} words in a row of an asked answer"
        raise InputError("at", f"blur-relearning-{attack.source}", expected)
    return found


def _grams(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[start : start + LEAK]) for start in range(len(words) - LEAK + 1)}


def _texts(records: Sequence[Record]) -> list[str]:
    return [f"{record.question} {record.answer}" for record in records]
