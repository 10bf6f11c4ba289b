"""How many neurons a layer's activation lets through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.batch import Batch
from remanent.core.estimate import Estimate
from remanent.errors import UnsupportedError
from remanent.sharpness.estimate import over_batches
from remanent.sharpness.surface import LossSurface

_ACTIVATIONS = ("relu", "gelu", "silu", "swish", "mish")


@dataclass(frozen=True)
class ActiveNeurons:
    """Active neurons of each layer.

    Args:
        layers: name of the module -> share of pre-activations above 0, over samples and positions, with Student's
            interval over batches.
    """

    layers: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"measure": "active-neurons", "layers": {name: item.to_dict() for name, item in self.layers.items()}}


def active_neurons(
    surface: LossSurface, before: str | None = None, *, on_batch: Callable[[], None] = lambda: None
) -> ActiveNeurons:
    """The share of pre-activations above 0 at each activation of the model, one forward pass over the batches.

    Of records that are padded (`Batch`) only their own positions count, be values (records, tokens, ...) or
    (records * tokens, ...).

    Args:
        surface: model, batches and point.
        before: shell pattern of the modules whose outputs are pre-activations ("*.fc1"), where activations are no
            modules. By default the inputs of every ReLU, GELU and SiLU module; one that stands in several places is
            one line.
        on_batch: called after each batch.

    Raises:
        UnsupportedError: where no such module is found, or values of a padded batch have another shape, as those of
            experts that see some of the tokens.

    Source: arXiv 2106.01548, section 4.4, with the definition that the card calls remembered.
    """
    chosen = activations(surface.model, before)
    own: Tensor | None = None
    sums: dict[str, list[float]] = {name: [0.0] for name in chosen}
    counts: dict[str, list[float]] = {name: [0.0] for name in chosen}

    def count(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            values = inputs[0] if before is None else output
            assert isinstance(values, Tensor)
            if own is not None and not own.all():
                if values.shape[:2] == own.shape:
                    values = values[own]
                elif values.shape[0] == own.numel():
                    values = values[own.flatten()]
                else:
                    raise UnsupportedError(
                        f"{name} has values {tuple(values.shape)} for a padded batch of {own.shape[0]} records and "
                        f"{own.shape[1]} tokens, and padding cannot be told from records; take batches of one record"
                    )
            sums[name][-1] += float((values.detach() > 0).sum())
            counts[name][-1] += values.numel()

        return hook

    with surface.entered(), torch.no_grad():
        handles = [module.register_forward_hook(count(name)) for name, module in chosen.items()]
        try:
            for place, batch in enumerate(surface.batches):
                if place:
                    for values in (*sums.values(), *counts.values()):
                        values.append(0.0)
                own = batch.attention_mask.bool() if isinstance(batch, Batch) else None
                surface.loss(surface.model, batch)
                on_batch()
        finally:
            for handle in handles:
                handle.remove()
    return ActiveNeurons({name: over_batches(sums[name], counts[name]) for name in chosen if sum(counts[name])})


def activations(model: nn.Module, before: str | None = None) -> dict[str, nn.Module]:
    """The modules that `active_neurons` looks at, by name. Arguments and errors as there."""
    named = dict(model.named_modules())
    if before is None:
        chosen = {
            name: module
            for name, module in named.items()
            if any(kind in type(module).__name__.lower() for kind in _ACTIVATIONS) and not any(module.children())
        }
    else:
        chosen = {name: module for name, module in named.items() if fnmatchcase(name, before)}
    if not chosen:
        looked = "no ReLU, GELU or SiLU module" if before is None else f"no module of the name {before}"
        raise UnsupportedError(f"{type(model).__name__} has {looked}; name those before an activation")
    return chosen
