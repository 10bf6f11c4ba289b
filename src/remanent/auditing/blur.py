"""BLUR: where what is forgotten and what is kept meet, in one question and in what is relearned.

Hu et al. (arXiv 2506.15699). A forgotten and a retained question stand in one prompt, of which the retained one is to
be answered and the other not; and the model is fine-tuned on harmless records that have ever more in common with the
forgotten ones (`relearning`). The benchmark's data set is `data.blur`. Here both are made for any records: of the
paper its abstract, reviews of it and the authors' scoring scripts could be read, and not how its sets were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rouge_score.rouge_scorer import RougeScorer

from remanent.auditing.evidence import CONTROL, FORGET, RETAIN
from remanent.auditing.measure_names import LEAKED, LEAKED_ALONE, RELEARNED, SERVED, SERVED_ALONE
from remanent.auditing.relearning import likeness, relearned
from remanent.auditing.text_score import TextScore
from remanent.core.catalogue import System
from remanent.core.sampling import seed_of
from remanent.data.encode import encode_all
from remanent.data.record import Message, Record
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


@dataclass(frozen=True, slots=True)
class Combined:
    """Each question in one prompt with one of the other kind: a forgotten or unseen one with a retained one.

    Args:
        first: which kind of question stands first.
        forget, retain: whom the partners are taken from. Left out of the repr, which is written down: what is asked is
            part of the measurements' key anyway.
    """

    first: Literal["forget", "retain"]
    forget: tuple[Record, ...] = field(default=(), repr=False)
    retain: tuple[Record, ...] = field(default=(), repr=False)

    def given(self, named: Mapping[str, Sequence[Record]]) -> Combined:
        """With partners. Raises InputError where forget or retain asks no question, or both are of one group."""
        forget, retain = (tuple(record for record in named.get(name, ()) if record.prompt) for name in (FORGET, RETAIN))
        if not forget or not retain or len({record.group for record in (*forget, *retain)}) < 2:
            expected = "forget and retain records with questions, of different groups"
            raise InputError("at", f"blur-{self.first}-first", expected)
        return replace(self, forget=forget, retain=retain)

    def partner(self, record: Record) -> Record | None:
        """Who stands beside a record, drawn by its key; None for plain text, which asks nothing."""
        retained = any(other.key == record.key and other.group == record.group for other in self.retain)
        others = [other for other in (self.forget if retained else self.retain) if other.group != record.group]
        if not record.prompt or not others:
            return None
        return others[seed_of("blur", record.key) % len(others)]

    def __call__(self, records: Sequence[Record]) -> list[Record]:
        """The records, each asked in one prompt with its partner; the answer is its own."""
        return [self._beside(record) for record in records]

    def _beside(self, record: Record) -> Record:
        partner = self.partner(record)
        if partner is None:
            return record
        is_retained = partner in self.forget
        comes_first = (self.first == "retain") == is_retained
        questions = [record.question, partner.question]
        text = " ".join(questions if comes_first else questions[::-1])
        return replace(record, prompt=(*record.prompt[:-1], Message("user", text)))


@dataclass(frozen=True)
class Together:
    """Answers both questions of a pair freely, in one prompt and each alone: is the one kept back, the other served?"""

    first: Literal["forget", "retain"]
    alone = False

    def given(self, named: Mapping[str, Sequence[Record]]) -> Together:
        """Nothing of its own; `Combined` checks the records."""
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records answered at most."""
        return 3 * sum(len(named.get(name, ())) for name in (FORGET, CONTROL))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """ROUGE-L recall of each part of a pair, of the first `most` of forget and control.

        One generation is scored against both true answers, so that recall is right where precision is not.
        """
        prompts = condition.prompts
        if not isinstance(prompts, Combined) or not hasattr(measurer.model, "generate"):
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
                rows = [(row, beside) for row, record in enumerate(part.records) if (beside := prompts.partner(record))]
                rows = rows[:most]
                own, others = [part.records[row] for row, _ in rows], [beside for _, beside in rows]
                # Room for two answers half as long again as the longest true ones.
                longest = max((item.scored for item in encode_all([*own, *others], measurer.tokenizer)), default=0)
                answers = [measurer.answers(model, asked, 3 * longest + 4) for asked in (prompts(own), own, others)]
                found[name] = [
                    TextScore(
                        *part.hashes[row],
                        {
                            LEAKED: recall(record.answer, both),
                            LEAKED_ALONE: recall(record.answer, alone),
                            SERVED: recall(beside.answer, both),
                            SERVED_ALONE: recall(beside.answer, served),
                        },
                    )
                    for (row, beside), record, both, alone, served in zip(rows, own, *answers, strict=True)
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
        """No record is passed through the model."""
        return 0

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """The likeness of each record that the first seed relearns, under the set that it is to bring back."""
        if condition.attack is None:
            return {}
        part, asked = relearned(condition.attack, measurer.subject, measurer.sets, condition.seeds[0] or 0)
        near = likeness(part, asked, measurer.subject)
        return {FORGET: [TextScore(*names, {RELEARNED: value}) for names, value in zip(part.hashes, near, strict=True)]}
