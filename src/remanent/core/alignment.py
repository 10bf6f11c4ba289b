"""Which scored tokens of two batches belong together, where the records differ in some words only."""

from __future__ import annotations

from difflib import SequenceMatcher

import torch
from torch import Tensor

from remanent.core.batch import IGNORED, Batch
from remanent.errors import InputError


def aligned(one: Batch, other: Batch) -> tuple[Tensor, Tensor]:
    """Indices of the scored tokens that both batches share, record by record, in order.

    The records of the two belong together one to one. Shared are the matching runs of their labels (longest first), so
    that a name which takes more tokens than the one in its place shifts nothing.

    Args:
        one, other: as many records each.

    Returns:
        Two int64 tensors of one length: indices into the scored tokens of `one` and of `other`, as `AnswerScores`
        lists them. Raises InputError where the numbers of records differ.
    """
    if len(one) != len(other):
        raise InputError("other", f"{len(other)} records", f"{len(one)} records, one for each of the first batch")
    found: tuple[list[int], list[int]] = ([], [])
    begin, other_begin = 0, 0
    for labels, other_labels in zip(_labels(one), _labels(other), strict=True):
        for run in SequenceMatcher(None, labels, other_labels, autojunk=False).get_matching_blocks():
            found[0].extend(range(begin + run.a, begin + run.a + run.size))
            found[1].extend(range(other_begin + run.b, other_begin + run.b + run.size))
        begin, other_begin = begin + len(labels), other_begin + len(other_labels)
    device = one.labels.device
    return torch.tensor(found[0], device=device, dtype=torch.int64), torch.tensor(
        found[1], device=device, dtype=torch.int64
    )


def _labels(batch: Batch) -> list[list[int]]:
    # The label at position 0 is never scored.
    return [[label for label in row if label != IGNORED] for row in batch.labels[:, 1:].tolist()]
