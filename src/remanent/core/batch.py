"""Encoded records and batches of them: what objectives, the loop and the audit pass round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

IGNORED = -100
Unit = Literal["token", "record"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One record as tokens.

    Args:
        input_ids: token ids, prompt and answer.
        labels: the same length; -100 where the token is not scored. The label at position 0 is never scored,
            since nothing predicts it.
        group: the record's group, the unit that intervals count.
        key: the record's key within its set.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    group: str = ""
    key: str = ""

    @property
    def scored(self) -> int:
        """How many of its tokens are scored."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Batch:
    """Records padded on the right to one length.

    Args:
        input_ids: int64, (records, tokens).
        attention_mask: int64, (records, tokens).
        labels: int64, (records, tokens); -100 where not scored.
        records: int64, (records,): each record's index in its set.
        reference: float32, (records,): the reference model's summed answer NLL per record, in nats;
            None where the objective asks for none.
        live: what the objective took from the reference model for this micro-batch; None where it asks for nothing.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    records: Tensor
    reference: Tensor | None = None
    live: Tensor | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def units(self, unit: Unit) -> int:
        """How many scored tokens, or how many records, the batch holds."""
        return int((self.labels[:, 1:] != IGNORED).sum()) if unit == "token" else len(self)

    @property
    def targets(self) -> Tensor:
        """The labels of the scored tokens, in the order of `AnswerScores`: int64, (tokens,)."""
        labels = self.labels[:, 1:]
        return labels[labels != IGNORED]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.labels.to(device),
            self.records.to(device),
            None if self.reference is None else self.reference.to(device),
        )

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of at most `size` records, in order, each cut to its own longest record."""
        return [self._slice(start, start + size) for start in range(0, len(self), size)]

    def with_reference(self, reference: Tensor | None) -> Batch:
        """The batch with its records' reference scores, picked from one score per record of the set."""
        return replace(self, reference=None if reference is None else reference[self.records])

    def _slice(self, start: int, stop: int) -> Batch:
        mask = self.attention_mask[start:stop]
        length = int(mask.sum(dim=1).max())
        return Batch(
            self.input_ids[start:stop, :length],
            mask[:, :length],
            self.labels[start:stop, :length],
            self.records[start:stop],
            None if self.reference is None else self.reference[start:stop],
        )


def collate(encoded: Sequence[Encoded], indices: Sequence[int], pad_id: int) -> Batch:
    """The records at `indices` as one batch, padded on the right with `pad_id`."""
    chosen = [encoded[index] for index in indices]
    length = max(len(item.input_ids) for item in chosen)
    input_ids = torch.full((len(chosen), length), pad_id, dtype=torch.int64)
    labels = torch.full((len(chosen), length), IGNORED, dtype=torch.int64)
    attention_mask = torch.zeros((len(chosen), length), dtype=torch.int64)
    for row, item in enumerate(chosen):
        size = len(item.input_ids)
        input_ids[row, :size] = torch.tensor(item.input_ids)
        labels[row, :size] = torch.tensor(item.labels)
        attention_mask[row, :size] = 1
    return Batch(input_ids, attention_mask, labels, torch.tensor(list(indices), dtype=torch.int64))
