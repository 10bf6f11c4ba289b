"""Which decoder layers matter for a set: what its loss does when each is left out, without a copy of any weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from remanent.core.activations import decoder_layers
from remanent.core.batch import Encoded
from remanent.core.displacement.layer_off import LayerOff
from remanent.core.scores import RecordScores, score_records
from remanent.core.weights import Weights, identity


def mean_loss(scores: RecordScores) -> float:
    """Mean NLL over all scored tokens of a set, in nats; 0 where there is none."""
    return float(scores.nll.sum() / scores.tokens.sum().clamp_min(1))


def layer_attribution(
    model: nn.Module, records: Sequence[Encoded], layers: Iterable[int], *, pad_id: int = 0
) -> dict[int, float]:
    """Layer -> |token mean NLL of the records without the layer - with it|, in nats, in eval mode.

    One forward pass over the records for each layer, and one more.

    Args:
        model: a causal language model; left as it was found.
        records: of which it is asked.
        layers: indices from 0.
        pad_id: token that fills short rows; it is masked.

    Source: FIT, arXiv 2601.21682, layer attribution, with the layer left out in place of its weights at zero.
    """
    whole = mean_loss(score_records(model, records, pad_id=pad_id))
    found = {}
    for layer in layers:
        with LayerOff(layer).at(model):
            found[layer] = abs(mean_loss(score_records(model, records, pad_id=pad_id)) - whole)
    return found


def block_weights(model: nn.Module, weights: Weights) -> dict[int, list[str]]:
    """Layer -> names of those of the weights that lie in its blocks, attention and feed-forward; norms between do not.

    A block is a child of the layer that has a linear layer, or an adapter, in it. Layers without such a weight are left
    out.

    Args:
        model: a causal language model.
        weights: those that come into question.
    """
    names = {identity(tensor): name for name, tensor in weights.items()}
    everything = Weights.of(model)
    kinds = {identity(tensor): everything.kind(name) for name, tensor in everything.items()}
    found: dict[int, list[str]] = {}
    for place, layer in enumerate(decoder_layers(model)):
        for block in layer.children():
            inner = [identity(parameter) for parameter in block.parameters()]
            if any(kinds.get(item) in ("linear", "adapter") for item in inner):
                found.setdefault(place, []).extend(names[item] for item in dict.fromkeys(inner) if item in names)
    return {place: chosen for place, chosen in found.items() if chosen}
