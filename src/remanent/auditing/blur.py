"""BLUR: where what is forgotten and what is kept meet, in one question and in what is relearned.

Hu et al. (arXiv 2506.15699). A forgotten and a retained question stand in one prompt, of which the retained one is to
be answered and the other not; and the model is fine-tuned on harmless records that have ever more in common with the
forgotten ones (`relearning`). The benchmark's data set is `data.blur`. Here both are made for any records: of the
paper its abstract, reviews of it and the authors' scoring scripts could be read, and not how its sets were made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

from rouge_score.rouge_scorer import RougeScorer
from torch.nn.functional import normalize

from remanent.auditing.evidence import CONTROL, FORGET, RETAIN
from remanent.auditing.measure_names import CLOSENESS, LEAKED, LEAKED_ALONE, RELEARNED, SERVED, SERVED_ALONE
from remanent.auditing.relearning import likeness, questioned, relearned
from remanent.auditing.text_score import TextScore
from remanent.core.activations import decoder_layers, mean_states, states_of
from remanent.core.batch import Encoded
from remanent.core.catalogue import System
from remanent.core.sampling import seed_of
from remanent.data.encode import encode_all
from remanent.data.record import Message, Record
from remanent.data.similarity import similarities
from remanent.errors import InputError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

SYSTEM = System(
    name="blur",
    title="BLUR: questions and relearning where forget and retain meet",
    year=2025,
    arxiv="2506.15699",
    card="blur",
    family="audit",
    reproduction="tests/reproductions/test_blur.py",
    needs=("forget", "retain", "text"),
    notes="How pairs and relearning sets are made is ours: of the paper, abstract and scoring scripts could be read.",
)

KEYWORDS = 3  # most words that a record is known by
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Pairs:
    """Each record with one of the other kind: a forgotten or unseen one with a retained one, a retained one with a
    forgotten one.

    Args:
        forget, retain: whom the partners are taken from. Left out of the repr, which is written down: what is asked is
            part of the measurements' key anyway.
    """

    forget: tuple[Record, ...] = field(default=(), repr=False, kw_only=True)
    retain: tuple[Record, ...] = field(default=(), repr=False, kw_only=True)

    def given(self, named: Mapping[str, Sequence[Record]]) -> Self:
        """With partners. Raises InputError where forget or retain asks no question, or both are of one group."""
        forget, retain = (tuple(record for record in named.get(name, ()) if record.prompt) for name in (FORGET, RETAIN))
        if not forget or not retain or len({record.group for record in (*forget, *retain)}) < 2:
            raise InputError("at", str(self), "forget and retain records with questions, of different groups")
        return replace(self, forget=forget, retain=retain)

    def partner(self, record: Record) -> Record | None:
        """Who stands beside a record, drawn by its key; None for plain text, which asks nothing."""
        retained = any(other.key == record.key and other.group == record.group for other in self.retain)
        others = [other for other in (self.forget if retained else self.retain) if other.group != record.group]
        if not record.prompt or not others:
            return None
        return others[seed_of("blur", record.key) % len(others)]

    def __call__(self, records: Sequence[Record]) -> list[Record]:
        """The records as they are asked beside their partners; the answer is the record's own."""
        return [record if (other := self.partner(record)) is None else self.beside(record, other) for record in records]

    def beside(self, record: Record, partner: Record) -> Record:
        """A record as it is asked beside a partner."""
        raise NotImplementedError

    def both(self, record: Record, partner: Record) -> Record:
        """What is answered freely to see both: the one prompt that a forgotten record and a retained partner make."""
        return self.beside(record, partner)

    def alone(self, record: Record, partner: Record) -> Record:
        """What is answered freely to see how much of the forgotten record is said without its partner's company."""
        return record


@dataclass(frozen=True)
class Combined(Pairs):
    """Each question in one prompt with its partner's.

    Args:
        first: which kind of question stands first.
    """

    first: Literal["forget", "retain"]

    def beside(self, record: Record, partner: Record) -> Record:
        is_retained = partner in self.forget
        comes_first = (self.first == "retain") == is_retained
        questions = [record.question, partner.question]
        return _asking(record, " ".join(questions if comes_first else questions[::-1]))

    def __str__(self) -> str:
        return f"blur-{self.first}-first"


@dataclass(frozen=True)
class Nearest(Combined):
    """The same, each with the partner whose question is most like its own in words: the largest TF-IDF cosine, of equal
    ones drawn by the record's key. In the place of BLUR's pairs that touch by meaning.

    Args:
        nearest: key and group of a record -> its partner; None where all partners are of its group. A record that is in
            two sets has the first one's, in the order forget, control, retain.
    """

    nearest: Mapping[tuple[str, str], Record | None] = field(default_factory=dict, repr=False)

    def given(self, named: Mapping[str, Sequence[Record]]) -> Self:
        """With partners for every record of the forget, retain and control sets."""
        found = super().given(named)
        nearest: dict[tuple[str, str], Record | None] = {}
        questions: dict[tuple[str, str], str] = {}
        for name, partners in ((FORGET, found.retain), (CONTROL, found.retain), (RETAIN, found.forget)):
            records = [record for record in named.get(name, ()) if record.prompt]
            rows = similarities([record.question for record in records], [other.question for other in partners])
            for record, near in zip(records, rows, strict=True):
                others = [(likeness, other) for likeness, other in zip(near, partners, strict=True)]
                others = [pair for pair in others if pair[1].group != record.group]
                most = max((likeness for likeness, _ in others), default=0.0)
                ties = [other for likeness, other in others if likeness == most]
                partner = ties[seed_of("blur", record.key) % len(ties)] if ties else None
                if questions.setdefault((record.key, record.group), record.question) != record.question:
                    expected = "keys and groups that are of one record alone, whichever set it is in"
                    raise InputError("key, group", f"{record.key}, {record.group}", expected)
                nearest.setdefault((record.key, record.group), partner)
        return replace(found, nearest=nearest)

    def partner(self, record: Record) -> Record | None:
        """The nearest, of a record of the sets that were given; None for plain text, which asks nothing."""
        return self.nearest[record.key, record.group] if record.prompt else None

    def __str__(self) -> str:
        return f"blur-nearest-{self.first}-first"


@dataclass(frozen=True)
class Keyword(Pairs):
    """Each question behind the words that its partner is known by: a retained question about nothing forgotten, in
    which a forgotten name stands.

    Args:
        held: word -> the groups in whose questions it stands.
    """

    held: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)

    def given(self, named: Mapping[str, Sequence[Record]]) -> Self:
        """With partners, and the words of all questions."""
        found = super().given(named)
        held: dict[str, set[str]] = {}
        for record in (*found.forget, *found.retain):
            for word in _words(record):
                held.setdefault(word.casefold(), set()).add(record.group)
        return replace(found, held={word: frozenset(groups) for word, groups in held.items()})

    def of(self, record: Record) -> str:
        """The words of its question that stand in the questions of the fewest other groups, at most 3, in order."""
        words = list(dict.fromkeys(_words(record)))
        others = {word: len(self.held.get(word.casefold(), frozenset()) - {record.group}) for word in words}
        least = min(others.values(), default=0)
        return " ".join([word for word in words if others[word] == least][:KEYWORDS])

    def beside(self, record: Record, partner: Record) -> Record:
        return _asking(record, f"{self.of(partner)}: {record.question}")

    def both(self, record: Record, partner: Record) -> Record:
        return self.beside(partner, record)

    def alone(self, record: Record, partner: Record) -> Record:
        return partner

    def __str__(self) -> str:
        return "blur-keyword"


def _asking(record: Record, text: str) -> Record:
    return replace(record, prompt=(*record.prompt[:-1], Message("user", text)))


def _words(record: Record) -> list[str]:
    return _WORD.findall(record.question)


@dataclass(frozen=True)
class Together:
    """Answers the prompt of a pair freely, and the retained question alone: is the one kept back, the other served?"""

    alone = False

    def given(self, named: Mapping[str, Sequence[Record]]) -> Together:
        """Nothing of its own; `Pairs` checks the records."""
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records answered at most."""
        return 3 * sum(len(named.get(name, ())) for name in (FORGET, CONTROL))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """ROUGE-L recall of each part of a pair, of the first `most` of forget and control.

        One generation is scored against both true answers, so that recall is right where precision is not.
        """
        prompts = condition.prompts
        if not isinstance(prompts, Pairs) or not hasattr(measurer.model, "generate"):
            return {}
        scorer = RougeScorer(["rougeL"], use_stemmer=True)

        def recall(truth: str, answer: str) -> float:
            return float(scorer.score(truth, answer)["rougeL"].recall)

        found = {}
        with measurer.at(condition) as model:
            for name in (FORGET, CONTROL):
                if name not in measurer.sets:
                    continue
                part = measurer.sets[name]
                rows = [(row, other) for row, record in enumerate(part.records) if (other := prompts.partner(record))]
                rows = rows[:most]
                pairs = [(part.records[row], other) for row, other in rows]
                everything = [record for pair in pairs for record in pair]
                # Room for two answers half as long again as the longest true ones.
                longest = max((item.scored for item in encode_all(everything, measurer.tokenizer)), default=0)
                asked = (
                    [prompts.both(*pair) for pair in pairs],
                    [prompts.alone(*pair) for pair in pairs],
                    [partner for _, partner in pairs],
                )
                together, forgotten, retained = (measurer.answers(model, records, 3 * longest + 4) for records in asked)
                found[name] = [
                    TextScore(
                        *part.hashes[row],
                        {
                            LEAKED: recall(record.answer, both),
                            LEAKED_ALONE: recall(record.answer, alone),
                            SERVED: recall(partner.answer, both),
                            SERVED_ALONE: recall(partner.answer, served),
                        },
                    )
                    for (row, _), (record, partner), both, alone, served in zip(
                        rows, pairs, together, forgotten, retained, strict=True
                    )
                ]
        return found


@dataclass(frozen=True)
class RelearnedLikeness:
    """How much what is relearned has in common with what is asked: measured, not asserted."""

    alone = False

    def given(self, named: Mapping[str, Sequence[Record]]) -> RelearnedLikeness:
        """Nothing of its own; the attack checks the records."""
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """What is relearned and what is asked, about."""
        return 2 * len(named.get(FORGET, ()))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Likeness and closeness of each record that the first seed relearns, under the set that it is to bring back.

        Closeness is asked of the model before it is attacked.
        """
        if condition.attack is None:
            return {}
        part, asked = relearned(condition.attack, measurer.subject, measurer.sets, condition.seeds[0] or 0)
        near = likeness(part, asked, measurer.subject)
        others = encode_all(questioned(asked, measurer.subject), measurer.tokenizer, measurer.max_length)
        close = closeness(measurer, part.encoded, others)
        return {
            FORGET: [
                TextScore(*names, {RELEARNED: words, CLOSENESS: states})
                for names, words, states in zip(part.hashes, near, close, strict=True)
            ]
        }


_FEWEST = 16  # texts, whose mean is taken off: of fewer it would be too much of each one


def closeness(measurer: Measurer, ours: Sequence[Encoded], theirs: Sequence[Encoded]) -> list[float]:
    """How near each text lies to the nearest of others in the model's own hidden states: cosine, in [0, 1].

    A text is the mean over its tokens of what the middle layer gives; the mean of all texts compared is taken off
    first, since in a decoder all texts lie in one direction from the origin. What lies opposite counts as nothing. The
    fewer texts, the more of each is in that mean, and the lower the figure: grades are compared at equal sizes. With
    fewer than 16 texts there is none, NaN.

    Args:
        measurer: whose model is asked, as loaded.
        ours, theirs: texts, whole: question and answer.
    """
    if not theirs or len(ours) + len(theirs) < _FEWEST:
        return [math.nan] * len(ours)
    layers = len(decoder_layers(measurer.model))
    depth = (layers + 1) // 2
    texts, autocast = [*ours, *theirs], measurer.autocast
    found = states_of(measurer.model, texts, (depth,), mean_states, measurer.batch_size, autocast=autocast)
    states = found[depth].double()
    unit = normalize(states - states.mean(dim=0), dim=1)
    near: list[float] = (unit[: len(ours)] @ unit[len(ours) :].T).max(dim=1).values.clamp(0, 1).tolist()
    return near
