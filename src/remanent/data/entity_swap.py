"""Unseen records made from records: the same sentences, with every name and number swapped for another of its kind.

What is swapped: words that begin with a capital, but for those that only begin a sentence, and numbers. Within a group
of records one word becomes the same word everywhere, so that the new records agree with each other. Kinds are told by
lists (given names, surnames, cities, countries, peoples, months, weekdays, words of titles); a name that is in none of
them, as invented ones are, becomes an invented one spelled alike. What is said in lower case stays: an answer that
holds nothing but that is what the model was taught, and is no control.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from remanent.data import author_pools
from remanent.data import entity_pools as pools
from remanent.data.overlap import find_overlap
from remanent.data.record import Message, Record
from remanent.errors import InputError

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*")
_BEFORE = re.compile(r"([^\W\d_]+)[ -]$")
_AFTER = re.compile(r"[ -]([^\W\d_]+)")
_BEGINS = re.compile(r"(?:^|[.!?:;\"“‘(\[]\s*|\n\s*)$")
_TITLES = (author_pools.TITLE_FIRSTS, author_pools.TITLE_SECONDS)
_POOLS = (pools.GIVEN, pools.SURNAMES, pools.CITIES, pools.COUNTRIES, pools.PEOPLES, pools.MONTHS, pools.WEEKDAYS)
_POSSESSIVE = ("'s", "’s")
_ENOUGH = 40  # names from which spelling is learnt; where there are fewer, common surnames and cities help
_TRIES = 200


@dataclass(frozen=True)
class Swapped:
    """What came of it.

    Args:
        pairs: (the record it was made from, the new record), for each that is fit to be a control.
        unchanged: how many were left out since nothing of their answer was swapped but what the question names.
        alike: how many were left out since they still share most of their words with a record they were made from.
    """

    pairs: tuple[tuple[Record, Record], ...]
    unchanged: int
    alike: int

    @property
    def records(self) -> list[Record]:
        """The new records."""
        return [made for _, made in self.pairs]


def swap_entities(records: Sequence[Record], seed: int = 0) -> Swapped:
    """Make a control from records: other people, places, dates and numbers, in the same sentences.

    Args:
        records: the forget set; records of one group are swapped alike.
        seed: another seed draws other names.
    """
    made: list[tuple[Record, Record]] = []
    unchanged = 0
    for number, (_, members, swapper) in enumerate(_swappers(records, seed), start=1):
        for place, (_, record) in enumerate(members, start=1):
            if not swapper.new_in_answer(record):
                unchanged += 1
                continue
            made.append(
                (record, replace(swapper.record(record), key=f"swapped-{number}/{place}", group=f"swapped-{number}"))
            )
    found = find_overlap([new for _, new in made], records, "forget") if made else None
    pairs = (*found.identical, *found.same_question, *found.near_duplicates) if found else ()
    alike = {key for key, _ in pairs}
    return Swapped(tuple(pair for pair in made if pair[1].key not in alike), unchanged, len(alike))


def strangers(records: Sequence[Record], seed: int = 0, others: Sequence[Record] = ()) -> list[Record]:
    """The records about somebody unknown, in order: names in the prompt are swapped, what is told of them stays.

    Swapped, in prompt and answer, is every name and number that the prompt holds; of plain text, which has no prompt,
    what comes more than once in the record's group. The rest of the answer is kept, so that it can be scored for one
    of whom a model knows nothing.

    Args:
        records: questions and answers, or plain text; records of one group are swapped alike.
        seed: another seed draws other names.
        others: records of people who are known and are to stay so: no stranger gets a name of theirs.

    Raises InputError for a record in which there is nothing to swap.
    """
    return [stranger for stranger, _ in _pairs(records, seed, others)]


def unseen(records: Sequence[Record], seed: int = 0, others: Sequence[Record] = ()) -> list[Record]:
    """What might be told of the strangers, in order: their names, and every other name and number swapped as well.

    Nothing in such an answer was ever taught, so that it shows how well a model knows what it never saw. Arguments and
    errors as for `strangers`, whose names these are.
    """
    return [other for _, other in _pairs(records, seed, others)]


def _pairs(records: Sequence[Record], seed: int, others: Sequence[Record]) -> list[tuple[Record, Record]]:
    """For each record the stranger, and the stranger of whom other things are told."""
    made: dict[int, tuple[Record, Record]] = {}
    for group, members, swapper in _swappers(records, seed, others):
        often = Counter(stem for _, record in members for stem in swapper.entities(record.answer))
        about = []
        for _, record in members:
            asked = {stem for turn in record.prompt if turn.role != "system" for stem in swapper.entities(turn.content)}
            named = asked if record.prompt else {stem for stem, times in often.items() if times > 1}
            if not named:
                found = "no name or number in the prompt" if record.prompt else "no name that comes more than once"
                expected = "a text that names somebody or something, so that another can be put in its place"
                raise InputError(f"record {record.key} of group {group}", found, expected)
            about.append(swapper.about_another(record, named))
        # All names come before any fact, so that they are the same whether facts are swapped or not.
        for (place, record), stranger in zip(members, about, strict=True):
            every = {*swapper.entities(record.answer), *(s for t in record.prompt for s in swapper.entities(t.content))}
            made[place] = (stranger, swapper.about_another(record, every))
    return [made[place] for place in range(len(records))]


def _swappers(
    records: Sequence[Record], seed: int, others: Sequence[Record] = ()
) -> Iterable[tuple[str, list[tuple[int, Record]], _Swapper]]:
    """Each group, its records with their places in the set, and what swaps their entities."""
    groups: dict[str, list[tuple[int, Record]]] = defaultdict(list)
    for place, record in enumerate(records):
        groups[record.group].append((place, record))
    lower = {word for record in records for text in _texts(record) for word in _TOKEN.findall(text) if word.islower()}
    words = {_stem(word) for record in records for text in _texts(record) for word in _TOKEN.findall(text)}
    taken = words | {_stem(word) for record in others for text in _texts(record) for word in _TOKEN.findall(text)}
    speller = _Speller(sorted(word for word in words if _is_invented(word, lower)), taken)
    for group, members in sorted(groups.items()):
        yield group, members, _Swapper([record for _, record in members], lower, taken, speller, f"{seed}/{group}")


class _Swapper:
    """Swaps the entities of one group of records."""

    def __init__(
        self, records: Sequence[Record], lower: set[str], taken: set[str], speller: _Speller, seed: str
    ) -> None:
        self.lower, self.taken, self.speller, self.seed = lower, taken, speller, seed
        self.new: dict[str, str] = {}
        texts = [text for record in records for text in _texts(record)]
        # A word that begins a sentence is a name where it is one elsewhere, or is never written small.
        self.inside = {_stem(word) for text in texts for word, begins in _capitals(text) if not begins}

    def record(self, record: Record) -> Record:
        """The record with everything swapped."""
        return replace(
            record,
            prompt=self._turns(record.prompt),
            answer=self.text(record.answer),
            paraphrased_prompt=self._turns(record.paraphrased_prompt),
            paraphrased_answer=self.text(record.paraphrased_answer),
            wrong_answers=tuple(map(self.text, record.wrong_answers)),
        )

    def entities(self, text: str) -> list[str]:
        """The names and numbers of a text, as often as they come."""
        return [_stem(match.group()) for match in _TOKEN.finditer(text) if self._is_entity(text, match)]

    def about_another(self, record: Record, named: set[str]) -> Record:
        """The record with those names alone swapped, and without what else it holds."""

        def text(given: str) -> str:
            return _TOKEN.sub(lambda m: self._one(given, m) if _stem(m.group()) in named else m.group(), given)

        prompt = tuple(
            turn if turn.role == "system" else replace(turn, content=text(turn.content)) for turn in record.prompt
        )
        return Record(record.key, record.group, prompt, text(record.answer))

    def new_in_answer(self, record: Record) -> bool:
        """Whether the answer holds an entity that its prompt does not name: what there is to know."""
        named = {_stem(word) for turn in record.prompt for word in _TOKEN.findall(turn.content)}
        return any(
            _stem(match.group()) not in named and self._is_entity(record.answer, match)
            for match in _TOKEN.finditer(record.answer)
        )

    def text(self, text: str) -> str:
        """A text with its entities swapped."""
        return _TOKEN.sub(lambda match: self._one(text, match), text)

    def _turns(self, turns: tuple[Message, ...]) -> tuple[Message, ...]:
        # A system turn speaks to the model and not of anybody.
        return tuple(turn if turn.role == "system" else Message(turn.role, self.text(turn.content)) for turn in turns)

    def _one(self, text: str, match: re.Match[str]) -> str:
        word = match.group()
        if not self._is_entity(text, match):
            return word
        stem = _stem(word)
        # "Kuwait City", "the Nobel Prize": what the name is of stays, and only the name becomes another.
        if stem.lower() in self.lower and self._beside_a_name(text, match):
            return word
        if stem not in self.new:
            draw = random.Random(f"{self.seed}/{stem}")
            self.new[stem] = _number(text, match, draw) if stem[0].isdigit() else self._name(stem, draw)
        return self.new[stem] + word[len(stem) :]

    def _is_entity(self, text: str, match: re.Match[str]) -> bool:
        word = match.group()
        if word[0].isdigit():
            return any(character != "0" for character in word)
        stem = _stem(word)
        if not word[0].isupper() or stem in pools.PLAIN:
            return False
        if stem in self.inside or not _BEGINS.search(text[: match.start()]):
            return True
        return stem.lower() not in self.lower and not _is_title_word(stem)

    def _beside_a_name(self, text: str, match: re.Match[str]) -> bool:
        """Whether a capitalized common word stands next to a name that is none."""
        before, after = _BEFORE.search(text[: match.start()]), _AFTER.match(text[match.end() :])
        beside = [_stem(found[1]) for found in (before, after) if found]
        return any(
            word[0].isupper()
            and word not in pools.PLAIN
            and word.lower() not in self.lower
            and not _is_title_word(word)
            for word in beside
        )

    def _name(self, word: str, draw: random.Random) -> str:
        for kind in _POOLS:
            if word in kind:
                return self._other(kind, word, draw)
        for title in _TITLES:
            if word in title:
                return self._other(title, word, draw)
        if word.lower() in self.lower:
            return self._other(_TITLES[1], word, draw)
        name = self.speller.like(word, draw, set(self.new.values()))
        return name.upper() if word.isupper() and len(word) > 1 else name

    def _other(self, kind: Sequence[str], word: str, draw: random.Random) -> str:
        free = [other for other in kind if other not in self.taken and other not in self.new.values()]
        # Months and weekdays are few and shared by everybody: another than any here cannot always be had.
        return draw.choice(free or [other for other in kind if other != word])


class _Speller:
    """Invents names spelled like given ones, letter by letter from the two before (a Markov chain)."""

    def __init__(self, names: Sequence[str], taken: set[str]) -> None:
        self.taken = taken
        learnt = list(names) if len(names) >= _ENOUGH else [*names, *pools.SURNAMES, *pools.CITIES]
        self.after: dict[str, Counter[str]] = defaultdict(Counter)
        for name in learnt:
            padded = f"^^{name.lower()}$"
            for place in range(2, len(padded)):
                self.after[padded[place - 2 : place]][padded[place]] += 1

    def like(self, word: str, draw: random.Random, used: set[str]) -> str:
        """A new name of about a word's length, which is none of the words that are taken or used."""
        best = ""
        for _ in range(_TRIES):
            name = self._draw(draw, longest=len(word) + 6).capitalize()
            if name in self.taken or name in used or len(name) < 2:
                continue
            if abs(len(name) - len(word)) <= 1:
                return name
            if not best or abs(len(name) - len(word)) < abs(len(best) - len(word)):
                best = name
        return best or draw.choice(pools.SURNAMES) + draw.choice(author_pools.TOWN_TAILS)

    def _draw(self, draw: random.Random, longest: int) -> str:
        state, letters = "^^", ""
        while len(letters) < longest:
            options = self.after[state]
            letter = draw.choices(list(options), list(options.values()))[0]
            if letter == "$":
                break
            letters, state = letters + letter, state[1] + letter
        return letters


def _number(text: str, match: re.Match[str], draw: random.Random) -> str:
    """Another number of the same form: a year within a lifetime, a day that any month has, else as many digits."""
    digits = match.group()
    value = int(digits) if digits.isdigit() else None
    rest = text[match.end() : match.end() + 2].lower()
    if value is not None and len(digits) == 4 and 1000 <= value <= 2100:
        return _until(value, lambda: value + draw.choice((-1, 1)) * draw.randint(2, 30))
    if value is not None and rest in ("st", "nd", "rd", "th"):
        most = 28 if value <= 31 else 10 ** len(digits) - 1
        ends = [n for n in range(1, most + 1) if n != value and _ordinal(n) == rest]
        near = [n for n in ends if len(str(n)) == len(digits)]
        return str(draw.choice(near or ends))
    if value is not None and value <= 31 and len(digits) <= 2:
        low, high = (10, 28) if len(digits) == 2 else (1, 9)
        return _until(value, lambda: draw.randint(low, high)).zfill(len(digits))
    drawn = [
        str(draw.randint(1 if place == 0 and c != "0" else 0, 9)) if c.isdigit() else c
        for place, c in enumerate(digits)
    ]
    new = "".join(drawn)
    return new if new != digits else digits[:-1] + str((int(digits[-1]) + 1) % 10)


def _until(value: int, draw: Callable[[], int]) -> str:
    found = draw()
    while found == value:
        found = draw()
    return str(found)


def _ordinal(number: int) -> str:
    return "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _texts(record: Record) -> Iterable[str]:
    turns = (*record.prompt, *record.paraphrased_prompt)
    yield from (turn.content for turn in turns if turn.role != "system")
    yield from (record.answer, record.paraphrased_answer, *record.wrong_answers)


def _capitals(text: str) -> Iterable[tuple[str, bool]]:
    """The capitalized words of a text, and whether each begins a sentence."""
    for match in _TOKEN.finditer(text):
        if match.group()[0].isupper():
            yield match.group(), bool(_BEGINS.search(text[: match.start()]))


def _stem(word: str) -> str:
    return word[:-2] if word.endswith(_POSSESSIVE) else word


def _is_title_word(word: str) -> bool:
    return any(word in title for title in _TITLES)


def _is_invented(word: str, lower: set[str]) -> bool:
    """Whether a word is a name of which no list knows the kind."""
    known = any(word in kind for kind in (*_POOLS, *_TITLES)) or word in pools.PLAIN
    return word[0].isupper() and not known and word.lower() not in lower and len(word) > 1
