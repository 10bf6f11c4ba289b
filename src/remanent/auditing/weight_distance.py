"""How far a model's weights lie from another's, layer by layer: without any data, and without saying what it knows.

Two models that were trained on the same records from two seeds lie far apart and know the same. The figure says how
much of a model was touched, and where; what it knows, the other distances say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from remanent.auditing.evidence import WEIGHTS
from remanent.auditing.text_score import TextScore
from remanent.core.packed import is_packed
from remanent.core.weights import Weights
from remanent.models.lora import carries_lora
from remanent.models.merged import merged_weights

# Of a layer: the sum of squared differences, that of the other model's weights, and how many there are.
MOVED, SIZE, COUNT = "weights-moved", "weights-size", "weights-count"
OUTSIDE = f"{WEIGHTS} outside layers"
_LAYER = re.compile(r"\.(\d+)\.")


@torch.no_grad()
def weight_scores(model: nn.Module, other: nn.Module) -> list[TextScore]:
    """Of each layer, and of what lies outside them, what its distance is made of; none where the two models have not
    the same weights by name and shape, as where one is packed.

    Args:
        model: as it stands; of one that carries a LoRA the merged weights.
        other: the reference, likewise.
    """
    if any(is_packed(each) for each in (model, other)):
        return []
    ours, theirs = (_weights(each) for each in (model, other))
    shared = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    if not len(ours) == len(theirs) == len(shared):
        return []
    found: dict[str, dict[str, float]] = {}
    for name in shared:
        weight = ours[name]
        layer = _LAYER.search(name)
        values = found.setdefault(
            f"{WEIGHTS} of layer {layer[1]}" if layer else OUTSIDE, dict.fromkeys((MOVED, SIZE, COUNT), 0.0)
        )
        reference = theirs[name].float()
        values[MOVED] += float((weight.float() - reference).square().sum(dtype=torch.float64))
        values[SIZE] += float(reference.square().sum(dtype=torch.float64))
        values[COUNT] += weight.numel()
    return [TextScore(name, name, values) for name, values in found.items()]


def weight_distances(scores: Sequence[TextScore]) -> dict[str, tuple[float, int]]:
    """Layer -> ||W - W_other|| / ||W_other||, Frobenius, and how many weights it has; first that of all together."""
    rows = {score.record: score.values for score in scores if MOVED in score.values}
    if not rows:
        return {}
    whole = {part: sum(values[part] for values in rows.values()) for part in (MOVED, SIZE, COUNT)}
    return {
        name: (math.sqrt(values[MOVED] / values[SIZE]) if values[SIZE] else math.nan, int(values[COUNT]))
        for name, values in {WEIGHTS: whole, **rows}.items()
    }


def _weights(model: nn.Module) -> Mapping[str, Tensor]:
    return merged_weights(model) if carries_lora(model) else Weights.of(model)
