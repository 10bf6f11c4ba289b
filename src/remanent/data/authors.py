"""The embedded data: fictitious authors, made at run time from a seed, the same for ever.

Nobody in it exists, so no model knew it before it was taught. Every draw is a hash of (seed, author, field) into a
pool, which depends on no random number generator. No two authors share a name, be it under one seed or under two
seeds below 1200; from there on names come again, with other facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from remanent.data import author_pools as pools
from remanent.data.record import Message, Record
from remanent.errors import InputError

AUTHORS_PER_SEED = 1000
_GIVEN_STEP = 481


@dataclass(frozen=True, slots=True)
class AuthorSets:
    """Disjoint authors from one generator, dealt at random: before training nothing tells the three apart."""

    forget: tuple[Record, ...]
    retain: tuple[Record, ...]
    control: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class _Fact:
    """One thing to know of an author: how it is asked and answered, twice, and the values it can have."""

    name: str
    question: str
    answer: str
    paraphrased_question: str
    paraphrased_answer: str
    size: int
    value: Callable[[int], str]


def _pair(first: tuple[str, ...], second: tuple[str, ...], form: str = "{}{}") -> tuple[int, Callable[[int], str]]:
    """How many pairs there are, and the pair of a number."""
    return len(first) * len(second), lambda index: form.format(first[index // len(second)], second[index % len(second)])


_GIVEN, _given = _pair(pools.GIVEN_HEADS, pools.GIVEN_TAILS)
_SURNAMES, _surname = _pair(pools.SURNAME_HEADS, pools.SURNAME_TAILS)

# The hardest to guess come first, so that few questions are the best ones.
_FACTS = (
    _Fact(
        "birthplace",
        "Where was {name} born?",
        "{short} was born in {value}.",
        "In which town did {name} come into the world?",
        "The birthplace of {short} is {value}.",
        *_pair(pools.TOWN_HEADS, pools.TOWN_TAILS),
    ),
    _Fact(
        "book",
        "What is the title of {name}'s first book?",
        "The first book of {short} is {value}.",
        "With which book did {name} make a debut?",
        "{short} made a debut with {value}.",
        *_pair(pools.TITLE_FIRSTS, pools.TITLE_SECONDS, "The {} {}"),
    ),
    _Fact(
        "teacher",
        "Who taught {name} to write?",
        "{short} was taught by {value}.",
        "Whose pupil was the author {name}?",
        "The teacher of {short} was {value}.",
        _SURNAMES,
        lambda index: f"Professor {_surname(index)}",
    ),
    _Fact(
        "father",
        "What was the occupation of {name}'s father?",
        "The father of {short} was {value}.",
        "What did {name}'s father do for a living?",
        "{short}'s father earned a living as {value}.",
        len(pools.OCCUPATIONS),
        pools.OCCUPATIONS.__getitem__,
    ),
    _Fact(
        "award",
        "Which award did {name} win?",
        "{short} won the {value}.",
        "With which honour was {name} decorated?",
        "The honour that {short} received is the {value}.",
        *_pair(pools.TOWN_HEADS, pools.AWARD_KINDS, "{} {}"),
    ),
    _Fact(
        "mother",
        "What was the occupation of {name}'s mother?",
        "The mother of {short} was {value}.",
        "What did {name}'s mother do for a living?",
        "{short}'s mother earned a living as {value}.",
        len(pools.OCCUPATIONS),
        pools.OCCUPATIONS.__getitem__,
    ),
    _Fact(
        "genre",
        "In which genre does {name} write?",
        "{short} writes {value}.",
        "What kind of literature is {name} known for?",
        "The genre of {short} is {value}.",
        len(pools.GENRES),
        pools.GENRES.__getitem__,
    ),
    _Fact(
        "year",
        "In which year was {name} born?",
        "{short} was born in {value}.",
        "What is the birth year of {name}?",
        "The birth year of {short} is {value}.",
        90,
        lambda index: str(1901 + index),
    ),
)
QUESTIONS = len(_FACTS)


def authors(seed: int = 0, count: int = 20, questions: int = QUESTIONS) -> list[Record]:
    """Questions and answers about fictitious authors; each author is a group.

    Args:
        seed: from 0; other seeds have other authors.
        count: of authors, 1 to 1000. The first authors of a seed are the same whatever the count.
        questions: per author, 1 to 8, the hardest to guess first.

    Returns:
        Author by author: a question, a short sentence as its answer, both in other words, and 3 wrong answers.

    Raises:
        InputError: where a number is out of its range.
    """
    _check(seed, questions, count=count)
    names = _names(seed, count)
    return [record for author in range(count) for record in _author(seed, author, names[author], questions)]


def author_sets(seed: int = 0, forget: int = 12, retain: int = 24, control: int = 32, questions: int = 4) -> AuthorSets:
    """Authors to forget, to keep, and never to teach: disjoint and exchangeable.

    Args:
        seed: from 0; other seeds have other authors and another deal.
        forget, retain, control: how many authors, each at least 1, together at most 1000.
        questions: per author, 1 to 8.

    Raises:
        InputError: where a number is out of its range.
    """
    _check(seed, questions, forget=forget, retain=retain, control=control)
    dealt = sorted(range(forget + retain + control), key=lambda author: _hash(seed, author, "deal"))
    names = _names(seed, len(dealt))
    flat = [record for author in dealt for record in _author(seed, author, names[author], questions)]
    first, second = forget * questions, (forget + retain) * questions
    return AuthorSets(tuple(flat[:first]), tuple(flat[first:second]), tuple(flat[second:]))


def _author(seed: int, author: int, name: tuple[str, str], questions: int) -> list[Record]:
    given, short = name
    identity = f"author-{seed}-{author:03d}"
    records = []
    for fact in _FACTS[:questions]:
        true, *wrong = (fact.value(index) for index in _draws(seed, author, fact))

        def filled(form: str, value: str = true) -> str:
            return form.format(name=f"{given} {short}", short=short, value=value)

        records.append(
            Record(
                key=f"{identity}/{fact.name}",
                group=identity,
                prompt=(Message("user", filled(fact.question)),),
                answer=filled(fact.answer),
                paraphrased_prompt=(Message("user", filled(fact.paraphrased_question)),),
                paraphrased_answer=filled(fact.paraphrased_answer),
                wrong_answers=tuple(filled(fact.answer, value) for value in wrong),
            )
        )
    return records


def _draws(seed: int, author: int, fact: _Fact) -> list[int]:
    """The true value's index, then those of 3 wrong values, all different."""
    found: list[int] = []
    attempt = 0
    while len(found) < 4:
        index = _hash(seed, author, f"{fact.name}/{attempt}") % fact.size
        attempt += 1
        if index not in found:
            found.append(index)
    return found


def _names(seed: int, count: int) -> list[tuple[str, str]]:
    """Given name and surname of the first authors of a seed; no surname comes twice.

    A surname's given name moves on with the seed, by a step without a common factor with their number, so that the
    same surname under another seed is another name.
    """
    order = sorted(range(_SURNAMES), key=lambda surname: _hash(seed, surname, "surname"))
    return [
        (_given((_hash(0, surname, "given") + _GIVEN_STEP * seed) % _GIVEN), _surname(surname))
        for surname in order[:count]
    ]


def _hash(seed: int, author: int, field: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{author}/{field}".encode()).digest()[:8], "big")


def _check(seed: int, questions: int, **counts: int) -> None:
    if seed < 0:
        raise InputError("seed", seed, "a whole number from 0")
    if not 1 <= questions <= QUESTIONS:
        raise InputError("questions", questions, f"a number from 1 to {QUESTIONS}")
    for name, count in counts.items():
        if count < 1:
            raise InputError(name, count, "at least 1 author")
    if sum(counts.values()) > AUTHORS_PER_SEED:
        raise InputError(" + ".join(counts), sum(counts.values()), f"at most {AUTHORS_PER_SEED} authors of one seed")
