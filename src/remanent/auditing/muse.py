"""MUSE's six: verbatim and knowledge memorization, privacy leakage, utility, scalability, sustainability.

Shi et al. (arXiv 2407.06460). Shares of 1, where MUSE multiplies by 100. The privacy leakage is `priv-leak`
(`membership`), utility the knowledge that is kept, and the last two are the same figures over several audits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETAIN, Evidence
from remanent.auditing.measure_names import KNOWLEDGE, PRIV_LEAK, VERBATIM
from remanent.auditing.prompts import FewShot
from remanent.auditing.text_score import TextScore
from remanent.data.record import Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from torch import nn

    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import AuditSet, Measurer

CONTINUED = 128  # tokens, written and compared
ANSWERED = 32
EXAMPLES = 10  # MUSE's files of examples have so many
STOPS = ("\n\n", "\nQuestion", "Question:")
_ASKED = (FORGET, RETAIN, CONTROL)


@dataclass(frozen=True)
class Muse:
    """Continues texts and answers questions greedily.

    Args:
        examples: solved questions before each; None until the records are known. Left out of the repr.
    """

    examples: FewShot | None = field(default=None, repr=False)
    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> Muse:
        """With at most 10 examples of the retain set, of other groups than the question's, as far as there are any."""
        groups = {record.group for record in named.get(RETAIN, ()) if record.prompt}
        if not named.get(FORGET) and not named.get(RETAIN):
            raise InputError("at", "muse", "a forget or a retain set")
        if len(groups) < 2:
            return self
        return replace(self, examples=FewShot(min(EXAMPLES, len(groups) - 1)).given(named[RETAIN]))

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records continued or answered at most."""
        return sum(len(named.get(name, ())) for name in _ASKED)

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """ROUGE-L F1 of the first `most` texts and the first `most` questions of each set."""
        if not hasattr(measurer.model, "generate"):
            return {}
        with measurer.at(condition) as model:
            found = {
                name: [
                    *self._continued(measurer, model, measurer.sets[name], most),
                    *self._answered(measurer, model, measurer.sets[name], most),
                ]
                for name in _ASKED
                if name in measurer.sets
            }
        return {name: scores for name, scores in found.items() if scores}

    def _continued(self, measurer: Measurer, model: nn.Module, part: AuditSet, most: int) -> list[TextScore]:
        """VerbMem: a text is given but for its last 128 tokens, which are compared; of a short text the first half."""
        scorer = _scorer()
        rows = [row for row, record in enumerate(part.records) if not record.prompt][:most]
        rows = [row for row in rows if len(part.encoded[row].input_ids) > 1]
        ids = [part.encoded[row].input_ids for row in rows]
        places = [max(len(tokens) // 2, len(tokens) - CONTINUED) for tokens in ids]
        begun = [tokens[:place] for tokens, place in zip(ids, places, strict=True)]
        rest = [list(tokens[place:][:CONTINUED]) for tokens, place in zip(ids, places, strict=True)]
        truths = measurer.tokenizer.batch_decode(rest, skip_special_tokens=True)
        written = measurer.written(model, begun, CONTINUED)
        return [
            TextScore(*part.hashes[row], {VERBATIM: float(scorer.score(truth, text)["rougeL"].fmeasure)})
            for row, truth, text in zip(rows, truths, written, strict=True)
        ]

    def _answered(self, measurer: Measurer, model: nn.Module, part: AuditSet, most: int) -> list[TextScore]:
        """KnowMem: questions after solved ones, answers of 32 tokens that end where another question would begin."""
        scorer = _scorer()
        rows = [row for row, record in enumerate(part.records) if record.prompt][:most]
        records = [part.records[row] for row in rows]
        asked = records if self.examples is None else self.examples(records)
        answers = measurer.answers(model, asked, ANSWERED)
        return [
            TextScore(*part.hashes[row], {KNOWLEDGE: float(scorer.score(record.answer, cut(text))["rougeL"].fmeasure)})
            for row, record, text in zip(rows, records, answers, strict=True)
        ]


def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds, and a report that reads `series` needs none

    return RougeScorer(["rougeL"], use_stemmer=True)


def cut(text: str) -> str:
    """An answer up to where another question would begin, without blanks at its ends."""
    for stop in STOPS:
        text = text.split(stop)[0]
    return text.strip()


def series(audits: Sequence[Evidence], condition: str = "muse", full: str = "full") -> list[dict[str, float | None]]:
    """MUSE's figures of each audit in turn, with the original model's utility and how much utility changed since the
    first audit.

    Scalability where the forget sets grow, sustainability where each model comes from the one before by a further
    request: utility should not fall. Figures that an audit did not make are None.

    Args:
        audits: in order.
        condition: at which MUSE's measures were made.
        full: at which `priv-leak` was.
    """
    rows = []
    for evidence in audits:
        asked = [item for item in evidence.measurements if (item.subject, item.records) == (AUDITED, FORGET)]
        rows.append(
            {
                "forgotten": float(len(asked[0].scores)) if asked else None,
                "verbatim": _value(evidence, AUDITED, condition, FORGET, VERBATIM),
                "knowledge": _value(evidence, AUDITED, condition, FORGET, KNOWLEDGE),
                "priv-leak": _value(evidence, AUDITED, full, FORGET, PRIV_LEAK),
                "utility": _value(evidence, AUDITED, condition, RETAIN, KNOWLEDGE),
                "utility-before": _value(evidence, ORIGINAL, condition, RETAIN, KNOWLEDGE),
            }
        )
    first = rows[0]["utility"] if rows else None
    for row in rows:
        now = row["utility"]
        row["utility-change"] = None if now is None or first is None else now - first
    return rows


def _value(evidence: Evidence, subject: str, condition: str, records: str, name: str) -> float | None:
    found = evidence.measure(subject, condition, records, name)
    return None if found is None else found.value
