"""Score sets of records on a model at a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from remanent.auditing.backends.gguf_file import GivenGGUF
from remanent.auditing.condition import Condition
from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    TEXT,
    Measurement,
    RecordScore,
)
from remanent.auditing.generation import generate
from remanent.auditing.prompts import Prompts
from remanent.auditing.relearning import RelearningAttack, relearned
from remanent.auditing.standing import standing
from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.displacement import Here, Relearning, Then
from remanent.core.intervention import worn
from remanent.core.sampling import Sampler, seed_of
from remanent.core.scores import score_records
from remanent.core.token_scores import TokenScores, token_scores
from remanent.core.weights import has_adapter
from remanent.data.encode import encode_all, pad_id, prompt_ids
from remanent.data.record import Record
from remanent.errors import InputError
from remanent.models.source import Source

# Whose text is measured: membership, extraction, truth ratio.
TEXT_MEASURED = (FORGET, CONTROL)


@dataclass(frozen=True)
class AuditSet:
    """Records of one kind, encoded, with the hashes that name them in evidence."""

    records: Sequence[Record]
    encoded: Sequence[Encoded]
    hashes: Sequence[tuple[str, str]]

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizerBase,
        hashed: Callable[[str], str],
        max_length: int | None = None,
    ) -> AuditSet:
        """Encode records; `hashed` turns a key or a group into its keyed hash."""
        names = [(hashed(record.key), hashed(record.group)) for record in records]
        return cls(records, encode_all(records, tokenizer, max_length), names)

    def where(self, chosen: Callable[[Record], bool]) -> AuditSet:
        """Those of the records that are chosen."""
        rows = [index for index, record in enumerate(self.records) if chosen(record)]
        return AuditSet(
            [self.records[row] for row in rows],
            [self.encoded[row] for row in rows],
            [self.hashes[row] for row in rows],
        )

    def asked(self, prompts: Prompts | None, tokenizer: PreTrainedTokenizerBase) -> AuditSet:
        """The same records, asked in another way; an answer that was cut is cut at the same token."""
        if prompts is None:
            return self
        records = prompts(self.records)
        pairs = zip(encode_all(records, tokenizer), self.encoded, strict=True)
        return AuditSet(records, [_cut(new, old.scored) for new, old in pairs], self.hashes)

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Measurer:
    """Measures one model.

    Args:
        subject: whose weights these are, for the evidence.
        model: the model.
        tokenizer: its tokenizer.
        sets: name of the records -> records.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic; None is the weights' own.
        on_batch: called with the number of records after each forward pass.
        source: where the model came from, which real back ends load again; None where it came from no file.
        max_length: longest record, in tokens; None cuts none.
        tokens: (condition, set) -> every token's scores, of the sets whose text is measured too: kept from the one
            pass, so that those measures need no second.
    """

    subject: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    sets: Mapping[str, AuditSet]
    batch_size: int = 16
    autocast: torch.dtype | None = None
    on_batch: Callable[[int], None] | None = None
    source: Source | None = None
    max_length: int | None = None
    tokens: dict[tuple[str, str], list[TokenScores]] = field(default_factory=dict)

    @property
    def how(self) -> dict[str, Any]:
        """How records are scored: what `score_records` and `token_scores` take by name."""
        return {
            "pad_id": pad_id(self.tokenizer),
            "batch_size": self.batch_size,
            "autocast": self.autocast,
            "on_batch": self.on_batch,
        }

    def measure(self, condition: Condition, seed: int | None) -> list[Measurement]:
        """Every set, at a condition. Under an attack only what was forgotten and the control are scored."""
        condition = self._here(condition)
        sets = {name: part for name, part in self.sets.items() if condition.prompts is None or name != TEXT}
        if condition.attack is not None:
            part, sets = relearned(condition.attack, self.subject, self.sets, seed or 0)
            batches = self._batches(part, condition.attack, seed or 0)
            first = Relearning(
                batches, condition.attack.steps, condition.attack.learning_rate, seed or 0, self.autocast
            )
            condition = replace(condition, displacement=Then(first, condition.displacement))
        with standing(condition, self.model, self.tokenizer, self.source) as model:
            return [self._score(model, condition, seed, name, part) for name, part in sets.items() if len(part)]

    def generate(self, condition: Condition, names: Sequence[str], most: int) -> dict[tuple[str, str], float]:
        """Best ROUGE-L F1 of generated answers: (set, record's hash) -> score, of the first `most` of each set."""
        with self.at(condition) as model:
            return dict(self._rouge(model, condition, [name for name in names if name in self.sets], most))

    def answers(self, model: nn.Module, records: Sequence[Record], room: int) -> list[str]:
        """Greedy answers of at most `room` tokens to questions, on a model that stands where it is asked."""
        return self.written(model, [prompt_ids(record, self.tokenizer) for record in records], room)

    def written(self, model: nn.Module, begun: Sequence[Sequence[int]], room: int) -> list[str]:
        """What the model writes greedily, at most `room` tokens, after each of some beginnings in tokens."""
        found: list[str] = []
        for start in range(0, len(begun), self.batch_size):
            rows = begun[start : start + self.batch_size]
            found += generate(model, self.tokenizer, rows, room, self.autocast)
            if self.on_batch is not None:
                self.on_batch(len(rows))
        return found

    def at(self, condition: Condition) -> AbstractContextManager[nn.Module]:
        """Inside the block, the model at a condition; its attack is not run."""
        return standing(self._here(condition), self.model, self.tokenizer, self.source)

    def _here(self, condition: Condition) -> Condition:
        """What a condition comes to on this model: a LoRA may be missing, and a given file is the audited model's."""
        if condition.needs_lora and not has_adapter(self.model):
            return replace(condition, displacement=Here())
        if condition.needs_intervention and not worn(self.model):
            return replace(condition, displacement=Here())
        if isinstance(condition.backend, GivenGGUF) and self.subject != AUDITED:
            return replace(condition, backend=None)
        return condition

    def _score(
        self, model: nn.Module, condition: Condition, seed: int | None, name: str, part: AuditSet
    ) -> Measurement:
        encoded = part.asked(condition.prompts, self.tokenizer).encoded
        self._check_room(model, condition, encoded)
        figures: Iterable[tuple[float, float, float]]
        if name in TEXT_MEASURED and condition.attack is None:
            tokens = token_scores(model, encoded, **self.how)
            self.tokens[condition.info.name, name] = tokens
            figures = ((item.nll, len(item.hits), int(item.hits.sum())) for item in tokens)
        else:
            found = score_records(model, encoded, **self.how)
            figures = zip(found.mean_nll.tolist(), found.tokens.tolist(), found.hits.tolist(), strict=True)
        rows = zip(part.hashes, figures, strict=True)
        scores = tuple(RecordScore(key, group, nll, int(n), int(hits)) for (key, group), (nll, n, hits) in rows)
        return Measurement(self.subject, condition.info.name, name, scores, seed)

    def _check_room(self, model: nn.Module, condition: Condition, encoded: Sequence[Encoded]) -> None:
        room = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        longest = max(len(item.input_ids) for item in encoded)
        if condition.prompts is not None and isinstance(room, int) and longest > room:
            expected = f"fewer or shorter examples: the model reads {room} tokens, the longest prompt has {longest}"
            raise InputError("at", condition.info.name, expected)

    def _batches(self, part: AuditSet, attack: RelearningAttack, seed: int) -> list[Batch]:
        sampler = Sampler(len(part), attack.batch_size, seed, "relearning")
        fill = pad_id(self.tokenizer)
        return [collate(part.encoded, sampler.batch(step), fill) for step in range(1, attack.steps + 1)]

    def _rouge(
        self, model: nn.Module, condition: Condition, names: Sequence[str], most: int
    ) -> Iterator[tuple[tuple[str, str], float]]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        asked: list[tuple[str, int, Record]] = []
        for name in names:
            part = self.sets[name]
            chosen = [index for index, record in enumerate(part.records) if record.prompt][:most]
            records = part.records if condition.prompts is None else condition.prompts(part.records)
            asked += [(name, index, records[index]) for index in chosen]
        samples = condition.decoding.samples
        for start in range(0, len(asked), self.batch_size):
            rows = asked[start : start + self.batch_size]
            prompts = [prompt_ids(record, self.tokenizer) for _, _, record in rows]
            # Room for an answer half as long again as the true one; longer ones are cut, as their score would fall.
            room = max(self.sets[name].encoded[index].scored for name, index, _ in rows) * 3 // 2 + 4
            seed = seed_of(condition.info.name, start)
            answers = generate(model, self.tokenizer, prompts, room, self.autocast, condition.decoding, seed)
            for place, (name, index, _) in enumerate(rows):
                truth = self.sets[name].records[index].answer
                drawn = answers[place * samples : (place + 1) * samples]
                best = max(scorer.score(truth, answer)["rougeL"].fmeasure for answer in drawn)
                yield (name, self.sets[name].hashes[index][0]), best
            if self.on_batch is not None:
                self.on_batch(len(rows))


def _cut(encoded: Encoded, scored: int) -> Encoded:
    """The record up to its first `scored` scored tokens."""
    places = [place for place, label in enumerate(encoded.labels) if place and label != IGNORED]
    end = places[scored - 1] + 1 if len(places) > scored else len(encoded.input_ids)
    return replace(encoded, input_ids=encoded.input_ids[:end], labels=encoded.labels[:end])


def with_rouge(measurement: Measurement, scores: Mapping[tuple[str, str], float]) -> Measurement:
    """The measurement with generated answers' scores filled in where there are any."""
    filled = tuple(
        replace(score, rouge_l=scores.get((measurement.records, score.record), score.rouge_l))
        for score in measurement.scores
    )
    return replace(measurement, scores=filled)
