"""Straggler layers: which layer of a fine-tuned model keeps the path to the model before it from succeeding.

Robust fine-tuning (WiSE-FT) interpolates a fine-tuned model with the one before it to gain accuracy out of
distribution. Where no point of the path is better there than both ends, it failed. The paper finds its straggler
layers sharp, and makes them sparse (`SparseUpdate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import Tensor

from remanent.core.catalogue import System
from remanent.core.displacement import Interpolation, Restored
from remanent.core.estimate import Estimate
from remanent.core.selection import Selection
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.sharpness.estimate import bootstrapped
from remanent.sharpness.interpolation import GRID, check_same_weights, stacked
from remanent.sharpness.layers import layers_of
from remanent.sharpness.surface import LossSurface

SYSTEM = System(
    name="clip-interpolation",
    title="Layer-wise sharpness, straggler layers and sparsity for interpolation of fine-tuned models",
    year=2024,
    arxiv="2410.16476",
    card="clip-interpolation",
    family="sharpness",
    reproduction="tests/reproductions/test_stragglers.py",
    needs=("data", "model before fine-tuning"),
    views=("full", "lora"),
    notes="The paper's definitions of straggler layer, of layer-wise sharpness and of the sparsity rule could not be "
    "read: ours are two readings of each, named as such.",
)


@dataclass(frozen=True)
class Stragglers:
    """Layers by how much they hold the fine-tuned model back.

    Args:
        scores: layer -> its score, the straggler first; with a bootstrap over the surface's units where it is a
            difference.
        reading: "reset": accuracy gained out of distribution when the layer alone is put back. "criticality": the
            smallest weight of the fine-tuned layer that keeps the accuracy in distribution.
    """

    scores: Mapping[str, Estimate]
    reading: str

    @property
    def first(self) -> str:
        """The straggler."""
        return next(iter(self.scores))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "stragglers",
            "reading": self.reading,
            "scores": {name: item.to_dict() for name, item in self.scores.items()},
        }


def stragglers_by_reset(
    surface: LossSurface,
    before: Mapping[str, Tensor],
    *,
    layers: Mapping[str, Selection] | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> Stragglers:
    """Reading 1: put each layer alone back to what it was before fine-tuning; what accuracy gains by it.

    Args:
        surface: of the fine-tuned model, on data out of distribution, with `wrong`. Its labels are used: report
            other data than these.
        before: name -> weight before fine-tuning.
        layers: name -> weights; `layers_of` the model by default.
        on_layer: called after each.
    """
    weights, chosen = _prepared(surface, before, layers)
    here, units = _wrong(surface), surface.unit_of_losses()
    found: dict[str, Estimate] = {}
    for name, select in chosen.items():
        back = {key: before[key] for key in select.of(weights)}
        with Restored(back).at(surface.model):
            there = _wrong(surface)
        found[name] = bootstrapped(lambda samples: float(samples.mean()), (here - there)[:, 0], units)
        on_layer()
    return Stragglers(_sorted(found), "reset")


def stragglers_by_criticality(
    surface: LossSurface,
    before: Mapping[str, Tensor],
    *,
    layers: Mapping[str, Selection] | None = None,
    tolerance: float = 0.01,
    grid: Sequence[float] = GRID,
    on_layer: Callable[[], None] = lambda: None,
) -> Stragglers:
    """Reading 2: the smallest a at which a layer at (1 - a) * before + a * now, the others as they are, keeps the
    accuracy in distribution within the tolerance. A straggler needs an a near 1. Ties go to the larger loss at a = 0.

    Args:
        surface: of the fine-tuned model, on data in distribution, with `wrong`.
        before: name -> weight before fine-tuning.
        layers: name -> weights; `layers_of` the model by default.
        tolerance: share of accuracy that may be lost.
        grid: values of a, ascending to 1.
        on_layer: called after each.

    Source: module criticality, Chatterji, Neyshabur and Sedghi, arXiv 1912.00528.
    """
    weights, chosen = _prepared(surface, before, layers)
    here = float(_wrong(surface).mean())
    found: dict[str, tuple[float, float]] = {}
    for name, select in chosen.items():

        def lost(share: float, select: Selection = select) -> float:
            with Interpolation(before, 1 - share).at(select.of(weights)):
                return float(_wrong(surface).mean()) - here

        kept = takewhile(lambda share: lost(share) <= tolerance + 1e-12, sorted(grid, reverse=True))
        found[name] = (min(kept, default=1.0), lost(0.0))
        on_layer()
    order = sorted(found, key=lambda name: found[name], reverse=True)
    return Stragglers({name: Estimate(found[name][0]) for name in order}, "criticality")


def _prepared(
    surface: LossSurface, before: Mapping[str, Tensor], layers: Mapping[str, Selection] | None
) -> tuple[Weights, Mapping[str, Selection]]:
    if surface.wrong is None:
        raise InputError("wrong", None, "a function that says which samples are answered wrongly")
    weights = surface.select.of(Weights.of(surface.model))
    check_same_weights(weights, before)
    return weights, layers or layers_of(surface.model, weights)


def _wrong(surface: LossSurface) -> Any:
    assert surface.wrong is not None
    with surface.entered():
        return stacked([[surface.wrong(surface.model, batch).detach().double().cpu() for batch in surface.batches]])


def _sorted(found: dict[str, Estimate]) -> dict[str, Estimate]:
    return dict(sorted(found.items(), key=lambda item: item[1].value, reverse=True))
