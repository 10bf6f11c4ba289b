"""Hidden states of a decoder: read at a layer, without computing what lies above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from remanent.core.batch import IGNORED, Batch
from remanent.errors import InputError, UnsupportedError


class _Reached(Exception):
    """Ends a forward pass once what is wanted is there."""


def decoder_layers(model: nn.Module) -> Sequence[nn.Module]:
    """The decoder's layers, in order: the longest list of modules that holds as many as the configuration says.

    Raises UnsupportedError where there is no such list.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise UnsupportedError(f"{type(model).__name__} has no list of {count or 'num_hidden_layers'} decoder layers")


def hidden_states(model: nn.Module, batch: Batch, layer: int) -> Tensor:
    """Output of a decoder layer, in the model's dtype: (records, tokens, width). Layers above it are not run.

    Args:
        model: a causal language model.
        batch: on the model's device.
        layer: index of the layer, from 0; negative counts from the end.

    The pass ends at the next layer's entry, so that a checkpointed layer's own forward is left whole. Gradients flow.
    """
    layers = decoder_layers(model)
    if not -len(layers) <= layer < len(layers):
        raise InputError("layer", layer, f"a layer from 0 to {len(layers) - 1}, or negative to count from the end")
    found: list[Tensor] = []

    def output(module: nn.Module, inputs: Any, result: Any) -> None:
        found.append(result[0] if isinstance(result, tuple) else result)

    def stop(module: nn.Module, inputs: Any) -> None:
        raise _Reached

    index = layer % len(layers)
    handles = [layers[index].register_forward_hook(output)]
    if index + 1 < len(layers):
        handles.append(layers[index + 1].register_forward_pre_hook(stop))
    try:
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    # A checkpointed layer runs its hooks again in the backward pass; the first run's output is the pass's own.
    return found[0]


def labelled(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The positions of hidden states that carry a scored label, and the row that each belongs to.

    Args:
        values: (records, tokens, width).
        batch: whose labels say which.

    Returns:
        (positions, width) and int64 (positions,).
    """
    scored = batch.labels != IGNORED
    scored[:, 0] = False  # nothing predicts the first token, which models give states unlike all others'
    return values[scored], scored.nonzero()[:, 0]
