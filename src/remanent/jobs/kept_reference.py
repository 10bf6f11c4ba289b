"""What an update keeps of what the reference model says of its batch, counted from the method before any work."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.method import Method
from remanent.core.passes import reference_passes
from remanent.core.predict import Predict
from remanent.core.scores import AnswerScores


class _Nothing(Predict):
    """Says of every batch what a model would, in its shapes: zeros."""

    def __init__(self, vocabulary: int, width: int) -> None:
        self._vocabulary, self._width = vocabulary, width

    def __call__(self, batch: Batch) -> AnswerScores:
        rows = (batch.labels[:, 1:] != IGNORED).nonzero()[:, 0]
        zeros = torch.zeros(len(rows))
        return AnswerScores(zeros, rows, zeros.bool(), torch.zeros(len(rows), self._vocabulary), len(batch))

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        return torch.zeros(*batch.input_ids.shape, self._width)

    def stream(self, batch: Batch, depths: Collection[int]) -> dict[int, Tensor]:
        return {depth: self.hidden(batch, depth) for depth in depths}


def kept_of_reference(method: Method, steps: int, vocabulary: int, width: int) -> Mapping[str, int]:
    """Role -> numbers that are kept of each scored token of its batch, at most: all micro-batches' at once, since the
    reference is asked about all of them before any is learnt from.

    Args:
        method: asked what it takes of one token.
        steps: of the run.
        vocabulary, width: of the model.
    """
    token = collate([Encoded((0, 0), (IGNORED, 0))], [0], 0)
    batches = dict.fromkeys(reference_passes(method, steps), token)
    taken = method.objective.at_reference(batches, _Nothing(vocabulary, width))
    return {role: values.numel() for role, values in taken.items()}
