"""Extraction likelihood and memorization accuracy: what comes out of a text by heart once its beginning is given.

Jang et al., Knowledge Unlearning (arXiv 2210.01504), equations 2 and 3. A text counts as forgotten there once both are
at most their mean on unseen text of the same kind, which is why the control stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from remanent.auditing.evidence import CONTROL, FORGET
from remanent.auditing.measure_names import LIKELIHOOD, MEMORIZATION
from remanent.auditing.text_score import TextScore
from remanent.core.batch import IGNORED, Encoded
from remanent.core.generation import generated
from remanent.core.scores import score_records
from remanent.data.encode import pad_id
from remanent.data.record import Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

LENGTH = 5
PREFIXES = 8  # most beginnings of one text


def overlap(written: Sequence[int], truth: Sequence[int], length: int) -> float:
    """The share of what was written, by runs of so many tokens, that stands in the truth; 0 where it has no such run.

    Args:
        written: tokens.
        truth: tokens.
        length: n, at least 1.
    """
    known = {tuple(truth[place : place + length]) for place in range(len(truth) - length + 1)}
    runs = [tuple(written[place : place + length]) for place in range(len(written) - length + 1)]
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def beginnings(scored: int, length: int, most: int = PREFIXES) -> list[int]:
    """How many scored tokens are given: all of 0 to scored - length - 1, thinned evenly; none of a short text.

    Args:
        scored: T, tokens of the text that are scored.
        length: n.
        most: how many at most.
    """
    count = max(0, scored - length)
    return list(range(count)) if count <= most else [place * count // most for place in range(most)]


@dataclass(frozen=True)
class ExtractionLikelihood:
    """Continues texts greedily from several of their beginnings.

    Args:
        length: n, tokens of a run; texts of at most that many scored tokens are left out.
    """

    length: int = LENGTH
    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> ExtractionLikelihood:
        """The look. Raises InputError for a length below 1."""
        if self.length < 1:
            raise InputError("at", f"extraction-{self.length}", "runs of at least 1 token")
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Continuations and texts scored, at most."""
        return (PREFIXES + 1) * sum(len(named.get(name, ())) for name in (FORGET, CONTROL))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Memorization accuracy of every record of forget and control, extraction likelihood of the first `most`."""
        found: dict[str, list[TextScore]] = {}
        with measurer.at(condition) as model:
            for name in (FORGET, CONTROL):
                if name not in measurer.sets:
                    continue
                part = measurer.sets[name].asked(condition.prompts, measurer.tokenizer)
                accuracy = memorized(model, part.encoded, measurer)
                likely = self._likelihoods(model, part.encoded[:most], measurer)
                found[name] = []
                for row, hashes in enumerate(part.hashes):
                    values = {MEMORIZATION: accuracy[row]}
                    if row in likely:
                        values[LIKELIHOOD] = likely[row]
                    found[name].append(TextScore(*hashes, values))
        return found

    def _likelihoods(self, model: nn.Module, texts: Sequence[Encoded], measurer: Measurer) -> dict[int, float]:
        """Row -> mean overlap over its beginnings; without those that are too short."""
        asked: list[tuple[int, list[int], list[int]]] = []
        for row, text in enumerate(texts):
            start = len(text.input_ids) - text.scored
            for given in beginnings(text.scored, self.length):
                ids = list(text.input_ids)
                asked.append((row, ids[: start + given], ids[start + given :]))
        overlaps: dict[int, list[float]] = {}
        fill = pad_id(measurer.tokenizer)
        for start in range(0, len(asked), measurer.batch_size):
            rows = asked[start : start + measurer.batch_size]
            room = max(len(truth) for *_, truth in rows)
            written = continued(model, [begun for _, begun, _ in rows], room, fill, measurer.autocast)
            for (row, _, truth), tokens in zip(rows, written, strict=True):
                overlaps.setdefault(row, []).append(overlap(tokens[: len(truth)], truth, self.length))
            if measurer.on_batch is not None:
                measurer.on_batch(len(rows))
        return {row: sum(values) / len(values) for row, values in overlaps.items()}


def memorized(model: nn.Module, texts: Sequence[Encoded], measurer: Measurer) -> list[float]:
    """MA: the share of a text's tokens, its question's too, that are the likeliest given all before them.

    NaN where their likelihoods are not finite.
    """
    whole = [replace(text, labels=(IGNORED, *text.input_ids[1:])) for text in texts]
    found = score_records(model, whole, **measurer.how)
    shares: list[float] = torch.where(found.nll.isfinite(), found.hits / found.tokens, torch.nan).tolist()
    return shares


def continued(
    model: nn.Module, begun: Sequence[Sequence[int]], room: int, fill: int, autocast: torch.dtype | None
) -> list[list[int]]:
    """The tokens that follow greedily, at most `room`, up to and without the one that ends a text.

    Args:
        model: that generates.
        begun: tokens that are given, of each text at least one.
        room: tokens written at most.
        fill: token that fills short rows on the left.
        autocast: dtype of the arithmetic.
    """
    made = generated(model, fill, begun, room, autocast)
    ends = model.generation_config.eos_token_id  # type: ignore[union-attr]
    stops = {fill, *(ends if isinstance(ends, list) else [ends])}
    return [_before(row, stops) for row in made.tolist()]


def _before(tokens: Sequence[int], stops: set[int | None]) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return list(tokens[:end])
