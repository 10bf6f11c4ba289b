"""How far a model's predictions lie from another's: a retrained model beside it, or one that knows nothing.

Zero retrain forgetting (Chundawat et al., arXiv 2205.08096) is 1 minus the divergence from a model of the same form
with fresh random weights. A model that answers at random has 1, and so has a destroyed one: it says nothing of what is
kept, and the aim is a retrained model's figure, not the largest.

Beside the divergences from a named model stand the survey's other distances to a retrained one: the activation distance
(Golatkar et al., arXiv 1911.04933, between last activations; Chundawat et al. between probabilities), completeness as
agreement (Cao and Yang, 2015) and the layer-wise distance of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from remanent.auditing.cross_sequence import untrained
from remanent.auditing.evidence import CONTROL, FORGET, RETAIN, WEIGHTS
from remanent.auditing.measure_names import (
    ACTIVATION_DISTANCE,
    AGREEMENT,
    JENSEN_SHANNON,
    KULLBACK_LEIBLER,
    PROBABILITY_DISTANCE,
    ZERO_RETRAIN,
)
from remanent.auditing.text_score import TextScore
from remanent.auditing.weight_distance import weight_scores
from remanent.core.activations import decoder_layers, stream_of
from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.divergence import js_divergence, kl_divergence
from remanent.core.files import sha256_file
from remanent.core.intervention import inner, inserted
from remanent.core.scores import AnswerScores, answer_scores
from remanent.data.encode import pad_id
from remanent.data.record import Record
from remanent.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

PREFIX = "divergence:"


@dataclass(frozen=True)
class ReferenceDistance:
    """Compares predictions at each scored token, both models in memory.

    Args:
        folder: of the reference model; None takes one with fresh random weights (seed 0).
        digest: of the reference's weights; set by `given`, so that stored figures are of these weights.
    """

    folder: str | None = None
    digest: str = field(default="")
    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> ReferenceDistance:
        """With the reference's digest. Raises InputError where the folder holds no weights."""
        if self.folder is None:
            return self
        files = sorted(Path(self.folder).glob("*.safetensors"))
        if not files:
            raise InputError("at", f"{PREFIX}{self.folder}", "the folder of a saved model")
        return replace(self, digest="SHA-256 " + " ".join(sha256_file(file) for file in files))

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records passed through both models."""
        return 2 * sum(len(named.get(name, ())) for name in (FORGET, RETAIN, CONTROL))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Of every record of forget, retain and control; of a named reference the weights' distance too, by layer."""
        found: dict[str, list[TextScore]] = {}
        with measurer.at(condition) as model:
            other = self._reference(model)
            for name in (FORGET, RETAIN, CONTROL):
                if name not in measurer.sets:
                    continue
                part = measurer.sets[name].asked(condition.prompts, measurer.tokenizer)
                rows = distances(model, other, part.encoded, measurer)
                found[name] = [
                    TextScore(*names, self._values(row)) for names, row in zip(part.hashes, rows, strict=True)
                ]
            if self.folder is not None:
                found[WEIGHTS] = weight_scores(model, other)
        return found

    def _values(self, row: dict[str, float]) -> dict[str, float]:
        return {ZERO_RETRAIN: 1 - row[JENSEN_SHANNON]} if self.folder is None else row

    def _reference(self, model: nn.Module) -> nn.Module:
        if self.folder is None:
            return untrained(inner(model))
        from remanent.models.load import load

        parameter = next(model.parameters())
        found: nn.Module = load(self.folder, device=parameter.device).model
        theirs, ours = (part.get_input_embeddings().num_embeddings for part in (found, model))  # type: ignore[operator]
        if theirs != ours:
            raise InputError("at", f"{PREFIX}{self.folder}", f"a model of the same vocabulary, {ours} tokens")
        return found.eval()


@torch.no_grad()
def distances(
    model: nn.Module, other: nn.Module, encoded: Sequence[Encoded], measurer: Measurer
) -> list[dict[str, float]]:
    """Of each record the means over its scored tokens, float32: JS(other, model) in bits, KL(other || model) in nats,
    the share at which both find the same token likeliest, the L2 distance of probabilities, and that of what the last
    layer gives, before the last norm, over the length of the other's; the last only where both are as wide."""
    device = next(model.parameters()).device
    found: list[dict[str, float]] = []
    for start in range(0, len(encoded), measurer.batch_size):
        indices = range(start, min(start + measurer.batch_size, len(encoded)))
        batch = collate(encoded, indices, pad_id(measurer.tokenizer)).to(device)
        dtype = measurer.autocast
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            (ours, states), (theirs, others) = (_asked(each, batch) for each in (model, other))
        one, two = ours.distribution, theirs.distribution
        tokens = {
            JENSEN_SHANNON: js_divergence(two, one),
            KULLBACK_LEIBLER: kl_divergence(two, one),
            AGREEMENT: (one.argmax(dim=-1) == two.argmax(dim=-1)).float(),
            PROBABILITY_DISTANCE: torch.linalg.vector_norm(one.exp() - two.exp(), dim=-1),
        }
        if states is not None and others is not None and states.shape == others.shape:
            apart = torch.linalg.vector_norm(states - others, dim=-1)
            tokens[ACTIVATION_DISTANCE] = apart / torch.linalg.vector_norm(others, dim=-1)
        means = {name: (ours.per_record(values) / ours.counts).tolist() for name, values in tokens.items()}
        found += [{name: values[row] for name, values in means.items()} for row in range(len(indices))]
        if measurer.on_batch is not None:
            measurer.on_batch(2 * len(indices))
    return found


def _asked(model: nn.Module, batch: Batch) -> tuple[AnswerScores, Tensor | None]:
    """Scores, and the last layer's states from which each scored token is predicted: float32, (tokens, width); None of
    a model whose layers cannot be found."""
    try:
        last = decoder_layers(model)[-1]
    except UnsupportedError:
        return answer_scores(model, batch), None
    kept: list[Tensor] = []
    handle = last.register_forward_hook(lambda module, inputs, result: kept.append(stream_of(result)))
    try:
        scores = answer_scores(model, batch)
    finally:
        handle.remove()
    return scores, kept[0][:, inserted(model) : -1][batch.labels[:, 1:] != IGNORED].float() if kept else None
