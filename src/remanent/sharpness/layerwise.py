"""Sharpness of each layer by itself: only its weights are perturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from remanent.core.selection import Selection
from remanent.core.weights import Weights
from remanent.sharpness.layers import layers_of
from remanent.sharpness.modern_sharpness import Definition, Sharpness, sharpness
from remanent.sharpness.surface import LossSurface

# Adaptive, average, 10 points: ours, where the paper's own is not known.
DEFINITION = Definition(0.1, "average", "l2", "element", steps=10)


@dataclass(frozen=True)
class LayerSharpness:
    """Sharpness of each layer.

    Args:
        layers: name -> what was found with the others where they are. They do not add up to the whole's.
        whole: sharpness of all of them together.
    """

    layers: Mapping[str, Sharpness]
    whole: Sharpness

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "layerwise",
            "layers": {name: found.to_dict() for name, found in self.layers.items()},
            "whole": self.whole.to_dict(),
        }


def layerwise(
    surface: LossSurface,
    definition: Definition = DEFINITION,
    *,
    layers: Mapping[str, Selection] | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> LayerSharpness:
    """Sharpness of each layer of those that the surface selects, and of all together.

    Args:
        surface: model, batches, loss, weights and point.
        definition: of each.
        layers: name -> weights; `layers_of` the model by default.
        on_batch: called after each batch of each layer.
    """
    chosen = layers or layers_of(surface.model, surface.select.of(Weights.of(surface.model)))
    found = {name: sharpness(surface.of(select), definition, on_batch=on_batch) for name, select in chosen.items()}
    return LayerSharpness(found, sharpness(surface, definition, on_batch=on_batch))
