"""Look one layer at a time: each layer is moved only while its forward runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.displacement.base import Context, Displacement
from remanent.core.state import State
from remanent.core.weights import Weights, fsdp_modules, identity
from remanent.errors import InputError, UnsupportedError


@contextmanager
def layer_by_layer(displacement: Displacement, model: nn.Module | Weights, context: Context) -> Iterator[None]:
    """Inside the block, each module's own weights are moved from its forward's start to its end.

    Extra memory: the largest layer's. Weights that a module reads without being called itself are not moved. No
    gradients: the weights are back before a backward pass would need them. What else `at` gives back is given back
    here too. Raises UnsupportedError for displacements that are not local, for FSDP2, and for `generate`, whose every
    token would move each layer again.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "a torch.nn.Module, since layers are moved as they are called")
    if not displacement.local:
        raise UnsupportedError(f"{displacement} moves the model as a whole and cannot go layer by layer")
    if fsdp_modules(model):
        raise UnsupportedError("FSDP2 gathers a layer's weights before they could be moved; use at(model) as a whole")
    weights = Weights.of(model)
    layers = _by_module(model, displacement.moving(weights))
    kept: dict[nn.Module, dict[str, Tensor]] = {}
    installed: dict[nn.Module, ExitStack] = {}

    @torch.no_grad()
    def enter(module: nn.Module, arguments: Any) -> None:
        kept[module] = {name: tensor.detach().clone() for name, tensor in layers[module].items()}
        installed[module] = ExitStack()
        displacement.move(layers[module], replace(context, cleanup=installed[module]))
        torch.clear_autocast_cache()  # an enclosing autocast holds casts of the weights from before

    @torch.no_grad()
    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        for name, value in kept.pop(module, {}).items():
            weights[name].copy_(value)
        installed.pop(module, ExitStack()).close()
        torch.clear_autocast_cache()

    @torch.no_grad()
    def leave_all() -> None:
        # A forward that was interrupted (KeyboardInterrupt) runs no hooks.
        for module in list(kept):
            leave(module, None, None)

    nothing = weights.only(())
    with State.of(weights, moved=nothing, gradients_aside=True), context.cleanup as stack, torch.no_grad():
        displacement.move(nothing, context)  # what it installs besides moving weights, it installs now
        stack.callback(leave_all)
        if hasattr(model, "generate"):
            own = model.__dict__.get("generate")
            model.__dict__["generate"] = _refuse_generation
            stack.callback(_set_back, model, own)
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # what is compiled sees no hooks
        for module in layers:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield


def _by_module(model: nn.Module, moving: Weights) -> dict[nn.Module, Weights]:
    """Which of the weights that move each module reads as its own; tied weights are several modules'."""
    names = {identity(tensor): name for name, tensor in moving.items()}
    found = {}
    for module in model.modules():
        chosen = dict.fromkeys(
            names[identity(parameter)] for parameter in module.parameters(recurse=False) if identity(parameter) in names
        )
        if chosen:
            found[module] = moving.only(chosen)
    return found


def _set_back(model: nn.Module, generate: Any) -> None:
    if generate is None:
        del model.__dict__["generate"]
    else:
        model.__dict__["generate"] = generate


def _refuse_generation(*arguments: Any, **options: Any) -> None:
    raise UnsupportedError("generation moves each layer again for every token; use at(model) without layer_by_layer")
