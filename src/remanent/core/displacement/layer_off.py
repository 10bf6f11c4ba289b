"""The model without one of its decoder layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from remanent.core.activations import decoder_layers
from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights
from remanent.errors import InputError


@dataclass(frozen=True)
class LayerOff(Displacement):
    """A decoder layer hands on what it was given. No weight moves and none is copied.

    Of a layer whose blocks add to a residual stream and end in a linear layer (Llama, GPT-2 ...) this is what the layer
    does with all of its weights at zero. Where a norm stands after the addition the two differ: zeros would cut the
    stream, this does not.

    Args:
        layer: index of the layer, from 0.

    Raises InputError for a layer that the model does not have.
    """

    layer: int

    def moving(self, weights: Weights) -> Weights:
        return weights.only(())

    def move(self, weights: Weights, context: Context) -> None:
        if context.model is None:
            raise InputError("model", None, "a model, since the layer is one of its modules")
        layers = decoder_layers(context.model)
        if not 0 <= self.layer < len(layers):
            raise InputError("layer", self.layer, f"a layer from 0 to {len(layers) - 1}")
        context.passing = True
        handle = layers[self.layer].register_forward_hook(_handed_on, with_kwargs=True)
        context.cleanup.callback(handle.remove)
        context.cleanup.enter_context(torch.compiler.set_stance("force_eager"))  # what is compiled sees no hooks

    def __str__(self) -> str:
        return f"layer-{self.layer}-off"


def _handed_on(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], result: Any) -> Any:
    given = inputs[0] if inputs else named["hidden_states"]
    return (given, *result[1:]) if isinstance(result, tuple) else given
