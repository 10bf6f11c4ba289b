"""What an objective asks of the model: scores of a batch, or hidden states, each passed through the model once."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from remanent.core.activations import hidden_states, residual_stream
from remanent.core.batch import Batch
from remanent.core.scores import AnswerScores, answer_scores


class Predict:
    """The model at one point, for the micro-batches of one backward pass.

    Args:
        model: at the point.
        autocast: dtype of the arithmetic; None computes in the weights' dtype.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        self._model, self._autocast = model, autocast
        self._scores: dict[int, AnswerScores] = {}

    def __call__(self, batch: Batch) -> AnswerScores:
        """Scores of the labelled tokens; a batch that is asked twice is passed through once."""
        if id(batch) not in self._scores:
            with self._arithmetic(batch):
                self._scores[id(batch)] = answer_scores(self._model, batch)
        return self._scores[id(batch)]

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Output of a decoder layer, (records, tokens, width); the layers above it are not run."""
        with self._arithmetic(batch):
            return hidden_states(self._model, batch, layer)

    def stream(self, batch: Batch, depths: Collection[int]) -> dict[int, Tensor]:
        """Hidden states at several depths, each (records, tokens, width), of one pass that ends at the deepest."""
        with self._arithmetic(batch):
            return residual_stream(self._model, batch, depths)

    def _arithmetic(self, batch: Batch) -> torch.autocast:
        # An autocast of its own, since one that outlives the pass would keep casts of weights that move.
        return torch.autocast(batch.input_ids.device.type, dtype=self._autocast, enabled=self._autocast is not None)
