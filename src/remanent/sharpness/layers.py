"""A model's layers, as groups of weights, for measures that look at one at a time."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from remanent.core.selection import Selection
from remanent.core.weights import Weights, identity


def layers_of(model: nn.Module, weights: Weights | None = None) -> dict[str, Selection]:
    """Name of a layer -> its weights, in the model's order.

    A layer is one of the blocks of the longest list of modules of one kind (transformer blocks, residual stages), and
    outside it each module that owns weights: embeddings, final norm, head. A model without such a list has one layer
    for each module that owns weights.

    Args:
        model: any module.
        weights: those that come into question; all by default.
    """
    chosen = Weights.of(model) if weights is None else weights
    names = {identity(weight): name for name, weight in chosen.items()}
    blocks = _blocks(model)
    found: dict[str, list[str]] = {}
    for prefix, module in model.named_modules():
        block = next((name for name in blocks if prefix == name or prefix.startswith(f"{name}.")), prefix)
        for parameter in module.parameters(recurse=False):
            if identity(parameter) in names:
                found.setdefault(block or type(model).__name__, []).append(names.pop(identity(parameter)))
    return {layer: selection(group) for layer, group in found.items()}


def selection(names: Iterable[str]) -> Selection:
    """Exactly the weights of those names."""
    return Selection(tuple("".join(f"[{sign}]" if sign in "*?[" else sign for sign in name) for name in names))


def _blocks(model: nn.Module) -> list[str]:
    best: list[str] = []
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) < 2:
            continue
        kinds = {type(child) for child in module}
        whole = [child for child in module if any(True for _ in child.children())]
        if len(kinds) == 1 and len(whole) == len(module) and len(module) > len(best):
            best = [f"{prefix}.{number}" if prefix else str(number) for number in range(len(module))]
    return best
