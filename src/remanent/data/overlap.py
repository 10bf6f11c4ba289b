"""What two sets have in common, before work starts: a record that is both forgotten and kept can be neither."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from remanent.data.record import Record
from remanent.errors import InputError

_WORD = re.compile(r"\w+")
_SHOWN = 5

Grams = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Forget records that another set holds too. Each is listed once, under the strongest kind that holds.

    Args:
        other: what the other set is: "retain", "control" ...
        identical: (forget key, other key) where question and answer are the same but for case and punctuation.
        same_question: where the question is the same and the answer another.
        near_duplicates: where one text holds at least `threshold` of the other's word n-grams.
        shared_groups: groups that both sets have, sorted. May be names of persons: not for a report.
        words, threshold: the n of the n-grams, and the share from which texts are near duplicates.
    """

    other: str
    identical: tuple[tuple[str, str], ...]
    same_question: tuple[tuple[str, str], ...]
    near_duplicates: tuple[tuple[str, str], ...]
    shared_groups: tuple[str, ...]
    words: int
    threshold: float

    @property
    def found(self) -> bool:
        """Whether there is any overlap."""
        return bool(self.identical or self.same_question or self.near_duplicates or self.shared_groups)

    def sentences(self) -> tuple[str, ...]:
        """What was found, in sentences that hold keys and counts but no text and no group's name."""
        near = f"shares at least {self.threshold:.0%} of its word {self.words}-grams with one"
        kinds = (
            (self.identical, "is also"),
            (self.same_question, "asks the question of one"),
            (self.near_duplicates, near),
        )
        sentences = [
            f"{_records(len(pairs), 'forget')}: each {what} in the {self.other} set ({_listed(pairs)})."
            for pairs, what in kinds
            if pairs
        ]
        if self.shared_groups:
            count = len(self.shared_groups)
            sentences.append(f"{count} group{'s' * (count > 1)} of the forget set also in the {self.other} set.")
        return tuple(sentences)


def find_overlap(
    forget: Sequence[Record],
    other: Sequence[Record],
    role: str = "retain",
    *,
    words: int = 3,
    threshold: float = 0.8,
) -> Overlap:
    """Find what the forget set and another have in common.

    Texts are compared as words without case and punctuation, question and answer together. A text shorter than an
    n-gram counts as one. The similarity of two texts is containment, |A and B| / min(|A|, |B|), so that a question and
    answer inside a longer text is found too. The search is exact: of the smaller text's n-grams, ranked by rarity, a
    match must share one of the rarest (1 - threshold) (Chaudhuri et al. 2006, prefix filter), so the common phrases of
    a data set cost nothing.

    Args:
        forget: the records to forget.
        other: the records to keep, or the control.
        role: what `other` is, for the sentences.
        words: n of the n-grams, at least 1.
        threshold: in (0, 1].

    Raises:
        InputError: where words or threshold is out of range.
    """
    if words < 1:
        raise InputError("words", words, "at least 1")
    if not 0 < threshold <= 1:
        raise InputError("threshold", threshold, "a number in (0, 1]")
    texts: dict[str, str] = {}
    questions: dict[str, str] = {}
    grams_of: dict[Grams, str] = {}
    for record in other:
        question, text = _normal(record.question), _text(record)
        texts.setdefault(text, record.key)
        if question:
            questions.setdefault(question, record.key)
        grams_of.setdefault(_grams(text, words), record.key)
    identical, same_question, rest = [], [], []
    for record in forget:
        question, text = _normal(record.question), _text(record)
        if text in texts:
            identical.append((record.key, texts[text]))
        elif question in questions:
            same_question.append((record.key, questions[question]))
        else:
            rest.append((record.key, _grams(text, words)))
    nearest = _nearest([grams for _, grams in rest], list(grams_of), threshold)
    keys = list(grams_of.values())
    return Overlap(
        other=role,
        identical=tuple(identical),
        same_question=tuple(same_question),
        near_duplicates=tuple((rest[place][0], keys[match]) for place, match in sorted(nearest.items())),
        shared_groups=tuple(sorted({record.group for record in forget} & {record.group for record in other})),
        words=words,
        threshold=threshold,
    )


def _nearest(left: list[Grams], right: list[Grams], threshold: float) -> dict[int, int]:
    """Place in left -> place in right of its most similar text, where the similarity reaches the threshold."""
    rarity = Counter(gram for grams in (*left, *right) for gram in grams)
    best: dict[int, tuple[float, int]] = {}

    def compare(first: int, second: int) -> None:
        a, b = left[first], right[second]
        similarity = len(a & b) / min(len(a), len(b))
        if similarity >= threshold:
            best[first] = max(best.get(first, (0.0, 0)), (similarity, -second))

    index = _index(right)
    for first, grams in enumerate(left):
        candidates = {second for gram in _rarest(grams, rarity, threshold) for second in index[gram]}
        for second in candidates:
            compare(first, second)
    index = _index(left)
    for second, grams in enumerate(right):
        candidates = {first for gram in _rarest(grams, rarity, threshold) for first in index[gram]}
        for first in candidates:
            compare(first, second)
    return {first: -place for first, (_, place) in best.items()}


def _rarest(grams: Grams, rarity: Counter[tuple[str, ...]], threshold: float) -> list[tuple[str, ...]]:
    needed = math.ceil(threshold * len(grams) - 1e-9)
    return sorted(grams, key=lambda gram: (rarity[gram], gram))[: len(grams) - needed + 1]


def _index(texts: Iterable[Grams]) -> defaultdict[tuple[str, ...], list[int]]:
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, grams in enumerate(texts):
        for gram in grams:
            index[gram].append(place)
    return index


def _normal(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


def _text(record: Record) -> str:
    return _normal(f"{record.question} {record.answer}")


def _grams(text: str, words: int) -> Grams:
    tokens = text.split()
    size = min(words, len(tokens))
    return frozenset(tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))


def _records(count: int, role: str) -> str:
    return f"{count} {role} record{'s' * (count > 1)}"


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{first} and {second}" for first, second in pairs[:_SHOWN])
    return shown + (f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else "")
