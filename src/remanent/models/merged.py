"""The weights of a model whose LoRA is merged, and another model's as weights of one that carries a LoRA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from remanent.core.displacement.adapter_off import SECOND_FACTORS
from remanent.core.weights import Weights, identity
from remanent.errors import UnsupportedError
from remanent.models.lora import carries_lora, lora_layers, refuse_tied


@contextmanager
def adapters_merged(model: Any) -> Iterator[None]:
    """Inside, every LoRA of a peft model is merged into its base; afterwards the base is as it was, bit for bit.

    Raises UnsupportedError where one is merged already.
    """
    layers = lora_layers(model)
    if any(layer.merged_adapters for layer in layers.values()):
        raise UnsupportedError("the adapters are merged into the live model already; unmerge them first")
    kept = [
        (parameter, parameter.detach().clone())
        for layer in layers.values()
        for parameter in layer.base_layer.parameters()
    ]
    try:
        for layer in layers.values():
            layer.merge()
        yield
    finally:
        for layer in layers.values():
            if layer.merged:
                layer.unmerge()
        with torch.no_grad():
            for parameter, value in kept:  # unmerging subtracts, which leaves rounding errors behind
                parameter.copy_(value)


def plain_state(model: Any) -> dict[str, Tensor]:
    """The state of a peft model's base under the names that it has without adapters."""
    return {
        _plain(name, model.active_adapters): tensor
        for name, tensor in model.get_base_model().state_dict().items()
        if "lora_" not in name and ".original_module." not in name
    }


def merged_weights(model: Any) -> dict[str, Tensor]:
    """A copy of a model's weights by name, each once: of one that carries a LoRA those of the base with it merged.

    Raises UnsupportedError where an adapted weight is shared with another layer.
    """
    if not carries_lora(model):
        return {name: weight.detach().clone() for name, weight in Weights.of(model).items()}
    refuse_tied(model, lora_layers(model))
    with adapters_merged(model):
        once: dict[tuple[Any, ...], tuple[str, Tensor]] = {}
        for name, tensor in plain_state(model).items():  # which names tied ones twice
            once.setdefault(identity(tensor), (name, tensor))
        return {name: tensor.detach().clone() for name, tensor in once.values()}


def as_adapted(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Another model's weights by the names of a model that carries a LoRA: as its base, second factors at 0.

    On the line between the two the merged weight W + s B A goes straight from one model to the other, since it is
    linear in W and B, and A stays. Names that the other model lacks are left out.

    Args:
        model: peft's, with LoRA.
        weights: of the other model, as `merged_weights` gives them.

    Raises UnsupportedError for DoRA, whose magnitudes make no straight line.
    """
    found = {}
    for name, weight in Weights.of(model).items():
        parts = name.split(".")
        if "lora_magnitude_vector" in parts:
            raise UnsupportedError(f"{name}: a DoRA is not on a line with other models; merge it and save the model")
        if any(part in SECOND_FACTORS for part in parts):
            found[name] = torch.zeros_like(weight, requires_grad=False)
        elif "lora_" in name or "original_module" in parts:
            found[name] = weight.detach().clone()
        else:
            plain = _plain(name.removeprefix("base_model.model."), model.active_adapters)
            found |= {name: weights[plain]} if plain in weights else {}
    return found


def _plain(name: str, adapters: Iterable[str]) -> str:
    for adapter in adapters:
        name = name.replace(f".modules_to_save.{adapter}.", ".")
    return name.replace(".base_layer.", ".")
