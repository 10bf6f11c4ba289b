"""How a stream of deletion requests goes: the score of a set, forget degree and retain utility.

S = 100 * (probability * ROUGE-L * accuracy)^(1 / 3) of a set. B(x) runs straight from the model before the first
request to one that is as if all had been obeyed. Forget degree (F.D.) is how near S of the records asked for so far is
to B, retain utility (R.U.) the same of retained records: max(0, 1 - |S / B - 1|). Too much counts as too little does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from remanent.auditing.generation import generate
from remanent.core.batch import Encoded
from remanent.core.modes import evaluating
from remanent.core.scores import score_records
from remanent.data.encode import pad_id, prompt_ids
from remanent.data.record import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SetScore:
    """What a model knows of a set.

    Args:
        probability: mean over records of exp(mean log-probability of an answer's tokens), in [0, 1].
        accuracy: share of all answer tokens that are the likeliest, teacher forced.
        rouge_l: mean ROUGE-L F of greedy answers against the true ones; None where nothing was generated.
        nll: mean over records of the mean NLL of an answer's tokens, in nats.
    """

    probability: float
    accuracy: float
    rouge_l: float | None
    nll: float

    @property
    def score(self) -> float:
        """S, from 0 to 100: the geometric mean of what was measured, of two figures where nothing was generated.

        Source: FIT, arXiv 2601.21682, evaluation of PCH.
        """
        parts = [self.probability, self.accuracy, *([] if self.rouge_l is None else [self.rouge_l])]
        return 100.0 * math.prod(parts) ** (1 / len(parts))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the score."""
        return {**asdict(self), "score": self.score}


def set_score(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    encoded: Sequence[Encoded],
    *,
    generated: int = 0,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
) -> SetScore:
    """Score a set.

    Args:
        model: asked in eval mode.
        tokenizer: its own.
        records: at least one.
        encoded: the same records as tokens.
        generated: how many records are answered freely, at even distances; those without a prompt cannot be asked.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic.
    """
    found = score_records(model, encoded, pad_id=pad_id(tokenizer), batch_size=batch_size, autocast=autocast)
    asked = [place for place, record in enumerate(records) if record.prompt]
    asked = [asked[index * len(asked) // generated] for index in range(generated)] if len(asked) > generated else asked
    return SetScore(
        probability=float((-found.mean_nll).exp().mean()),
        accuracy=float(found.hits.sum() / found.tokens.sum()),
        rouge_l=_rouge_l(model, tokenizer, [(records[i], encoded[i]) for i in asked], batch_size, autocast),
        nll=float(found.mean_nll.mean()),
    )


@torch.no_grad()
def _rouge_l(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[Record, Encoded]],
    batch_size: int,
    autocast: torch.dtype | None,
) -> float | None:
    from rouge_score.rouge_scorer import RougeScorer

    if not asked:
        return None
    scorer, total = RougeScorer(["rougeL"], use_stemmer=True), 0.0
    with evaluating(model):
        for start in range(0, len(asked), batch_size):
            rows = asked[start : start + batch_size]
            # Room for an answer half as long again as the longest true one; a longer one is cut, as its score would
            # fall.
            room = max(item.scored for _, item in rows) * 3 // 2 + 4
            answers = generate(model, tokenizer, [prompt_ids(record, tokenizer) for record, _ in rows], room, autocast)
            total += sum(
                scorer.score(record.answer, answer)["rougeL"].fmeasure
                for (record, _), answer in zip(rows, answers, strict=True)
            )
    return total / len(asked)


def degree(score: float, line: float) -> float:
    """max(0, 1 - |S / B - 1|): 1 on the line, 0 where it is 0 or the score twice as high.

    Source: FIT, arXiv 2601.21682, forget degree and retain utility.
    """
    return 0.0 if line == 0 else max(0.0, 1.0 - abs(score / line - 1.0))


def curve(
    rows: Sequence[Mapping[str, Any]], ends: Mapping[str, tuple[float, float]], total: int
) -> list[dict[str, Any]]:
    """The rows with their lines, F.D. and R.U.

    Args:
        rows: each with "requests", how many were obeyed, and scores of "forget" and "retain" where there are any.
        ends: "forget" and "retain" -> S before the first request, and of a model that is as if all had been obeyed.
        total: requests in all, at which the lines end.
    """
    found = []
    for row in rows:
        made = dict(row)
        for role, name in (("forget", "forget_degree"), ("retain", "retain_utility")):
            if role in ends and row.get(role) is not None:
                first, last = ends[role]
                made[f"{role}_line"] = first + (last - first) * row["requests"] / max(1, total)
                made[name] = degree(row[role]["score"], made[f"{role}_line"])
        found.append(made)
    return found
