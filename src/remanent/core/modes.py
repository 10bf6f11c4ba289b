"""Train and eval modes of a model's modules, given back as they were, whatever happens inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from remanent.core.packed import keep_as_packed


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Inside, modes may change; afterwards each module is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; afterwards each module is in its own again. Packed weights stay as packed."""
    keep_as_packed(model)
    with keeping_modes(model):
        model.eval()
        yield
