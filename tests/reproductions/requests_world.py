"""A stream of deletion requests, some of which repeat earlier ones, and a tiny model that knows what they ask for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from torch import Tensor

from remanent.auditing.continual import curve, set_score
from remanent.core.batch import Encoded
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.sampling import seed_of
from remanent.core.task import teach
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.data.record import Record
from remanent.data.splits import RETAIN_SHARES, split_by_group
from remanent.models.tiny import tiny

from .world import in_other_words

State = Mapping[str, Tensor]
_OTHERS = 1_000_003
QUESTIONS = 1  # a record a person, so that a request is small


@dataclass(frozen=True)
class Request:
    """One request.

    Args:
        name: as episodes are named.
        records: what it asks to be forgotten.
        repeats: "" for a new one, "word for word" or "in other words" for one that an earlier request asked already.
    """

    name: str
    records: tuple[Record, ...]
    repeats: str = ""


class RequestsWorld:
    """Authors of which each request names one, authors to keep, and a small Llama that was taught both.

    Args:
        requests: how many.
        repeated: how many of them repeat an earlier one: every other word for word, the rest in other words.
        retain, background: authors to keep, and authors that teach the base its language.
        layers: of the Llama, of width 64.
        seed: of the authors, of their order and of the first weights.
    """

    def __init__(
        self,
        requests: int = 100,
        repeated: int = 25,
        retain: int = 96,
        background: int = 96,
        layers: int = 4,
        seed: int = 0,
    ) -> None:
        dealt = author_sets(seed, requests - repeated, retain, 1, QUESTIONS)
        others = list(author_sets(_OTHERS + seed, 1, background, 1, QUESTIONS).retain)
        self.requests = stream(dealt.forget, requests, seed)
        self.retain = split_by_group(list(dealt.retain), RETAIN_SHARES, seed)
        known = [*dealt.forget, *dealt.retain, *in_other_words(dealt.forget)]
        made = tiny([*known, *others], layers=layers, vocabulary=1024, seed=seed)
        self.model, self.tokenizer = made.model, made.tokenizer
        self.settings = Settings(pad_id(made.tokenizer), evaluate_every=0)
        blank = self.state()
        base = self._taught(blank, others, 8)
        self.taught = self._taught(base, [*dealt.retain, *dealt.forget], 20)
        self.retrained = self._taught(base, list(dealt.retain), 20)
        self.ends = self.known_and_never_asked()

    def known_and_never_asked(self) -> dict[str, tuple[float, float]]:
        """S of what is asked to be forgotten and of what is kept: known, and never asked for."""
        everything = [record for request in self.requests if not request.repeats for record in request.records]
        return {
            role: (self.score(records, self.taught), self.score(records, self.retrained))
            for role, records in (("forget", everything), ("retain", self.retain["audit"]))
        }

    def state(self) -> State:
        """A copy of the weights as they are."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def encoded(self, records: Sequence[Record]) -> list[Encoded]:
        """Records as tokens."""
        return encode_all(records, self.tokenizer)

    def score(self, records: Sequence[Record], state: State | None = None, generated: int = 24) -> float:
        """S of records, at a state or where the model is."""
        return float(self.measured(records, state, generated)["score"])

    def measured(self, records: Sequence[Record], state: State | None = None, generated: int = 24) -> dict[str, Any]:
        """Everything of a set's score."""
        if state is not None:
            self.model.load_state_dict(state)
        encoded = self.encoded(records)
        how = {"batch_size": 64, "autocast": self.settings.autocast}
        return set_score(self.model, self.tokenizer, records, encoded, generated=generated, **how).to_dict()

    def obey(
        self, method: Method, *, every: int = 25, seed: int = 0, on_request: Callable[[], None] | None = None
    ) -> list[dict[str, Any]]:
        """All requests, one after another, from the taught model; the curve, one row for each `every` requests."""
        self.model.load_state_dict(self.taught)
        retained, asked, rows = self.encoded(self.retain["train"]), list[Record](), []
        for place, request in enumerate(self.requests, start=1):
            data = {"forget": self.encoded(request.records), "retain": retained}
            settings = replace(self.settings, seed=seed_of(seed, "request", place))
            run_episode(self.model, method, Episode(request.name, "erase", data), settings)
            if not request.repeats:
                asked += request.records
            if place % every == 0 or place == len(self.requests):
                found = {"forget": self.measured(asked), "retain": self.measured(self.retain["audit"])}
                rows.append({"requests": place, **found})
            if on_request is not None:
                on_request()
        return curve(rows, self.ends, len(self.requests))

    def _taught(self, start: State, records: Sequence[Record], epochs: int) -> State:
        self.model.load_state_dict(start)
        method = with_settings(teach(), epochs=epochs, learning_rate=3e-3, batch_size=16)
        run_episode(self.model, method, Episode("teach", "teach", {"task": self.encoded(records)}), self.settings)
        return self.state()


def stream(records: Sequence[Record], requests: int, seed: int) -> list[Request]:
    """New requests in an order of the seed, with repeats of earlier ones strewn in from the second on."""
    draw = random.Random(seed)
    people = sorted({record.group for record in records})
    draw.shuffle(people)
    new = [tuple(record for record in records if record.group == person) for person in people]
    kinds = ["new"] * (len(new) - 1) + ["repeat"] * (requests - len(new))
    draw.shuffle(kinds)
    found, met = [Request("request-000", new[0])], 1
    for place, kind in enumerate(kinds, start=1):
        name = f"request-{place:03d}"
        if kind == "new":
            found.append(Request(name, new[met]))
            met += 1
            continue
        again = new[draw.randrange(met)]
        verbatim = sum(bool(request.repeats) for request in found) % 2 == 0
        form = "word for word" if verbatim else "in other words"
        found.append(Request(name, again if verbatim else tuple(in_other_words(again)), form))
    return found


def last(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """A figure of a curve's last row."""
    return float(rows[-1][name])


def average(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """A figure's mean over a curve."""
    return mean(float(row[name]) for row in rows)
