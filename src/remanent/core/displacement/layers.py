"""Look one layer at a time: each layer is moved only while its forward runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights, identity
from remanent.errors import InputError, UnsupportedError


@contextmanager
def layer_by_layer(displacement: Displacement, model: nn.Module | Weights, context: Context) -> Iterator[None]:
    """Inside the block, each module's own weights are moved from its forward's start to its end.

    Extra memory: the largest layer's. Weights that a module reads without being called itself are not moved. No
    gradients: the weights are back before a backward pass would need them. Raises UnsupportedError for displacements
    that are not local, and for `generate`, whose every token would move each layer again.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "a torch.nn.Module, since layers are moved as they are called")
    if not displacement.local:
        raise UnsupportedError(f"{displacement} moves the model as a whole and cannot go layer by layer")
    weights = Weights.of(model)
    names = {identity(tensor): name for name, tensor in displacement.moving(weights).items()}
    kept: dict[nn.Module, dict[str, Tensor]] = {}

    @torch.no_grad()
    def enter(module: nn.Module, arguments: Any) -> None:
        own = weights.only(
            dict.fromkeys(names[identity(p)] for p in module.parameters(recurse=False) if identity(p) in names)
        )
        kept[module] = {name: tensor.detach().clone() for name, tensor in own.items()}
        displacement.move(own, context)

    @torch.no_grad()
    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        for name, value in kept.pop(module, {}).items():
            weights[name].copy_(value)
        torch.clear_autocast_cache()

    with ExitStack() as stack, torch.no_grad():
        if hasattr(model, "generate"):
            model.__dict__["generate"] = _refuse_generation
            stack.callback(model.__dict__.pop, "generate")
        for module in model.modules():
            if any(identity(parameter) in names for parameter in module.parameters(recurse=False)):
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield


def _refuse_generation(*arguments: Any, **options: Any) -> None:
    raise UnsupportedError("generation moves each layer again for every token; use at(model) without layer_by_layer")
