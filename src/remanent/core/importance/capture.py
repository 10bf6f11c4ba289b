"""Hooks that keep each layer's inputs and output gradients for one pass, as the uses of its weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from remanent.core.importance.uses import Outer, Rows, Use, Vector
from remanent.core.weights import Weights, identity, is_linear
from remanent.errors import UnsupportedError

# weight's name, its uses
Deliver = Callable[[str, list[Use]], None]


@dataclass
class _Pass:
    records: int
    deliver: Deliver
    forward: bool = True


class Capture:
    """Gives the uses of weights during passes.

    `names` are those that it gives: the weights that only layers of known kinds own. `misfits` are those of a layer
    that was passed something whose first dimension is not the records; what was given of them does not count.

    Args:
        model: whose layers are hooked.
        weights: the weights that are wanted.
    """

    def __init__(self, model: nn.Module, weights: Weights) -> None:
        by_memory = {identity(tensor): name for name, tensor in weights.items()}
        self._layers: dict[nn.Module, dict[str, str]] = {}
        owners: defaultdict[str, int] = defaultdict(int)
        unknown: set[str] = set()
        for module in model.modules():
            own = module.named_parameters(recurse=False, remove_duplicate=False)
            named = {attribute: by_memory[identity(p)] for attribute, p in own if identity(p) in by_memory}
            if named and not _known(module):
                unknown |= set(named.values())
            elif named:
                self._layers[module] = named
                for name in named.values():
                    owners[name] += 1
        self.names = {name for name in owners if name not in unknown}
        self._shared = {name for name, count in owners.items() if count > 1}
        self.misfits: set[str] = set()
        self._pass: _Pass | None = None

    def leave_out(self, names: set[str]) -> None:
        """No longer give the uses of these weights."""
        self.names -= names

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside the block passes can be run."""
        handles = [module.register_forward_hook(self._forward) for module in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def running(self, records: int, deliver: Deliver) -> Iterator[Callable[[], None]]:
        """One pass: run the forward inside, then call what it gives, then the backward.

        A weight that one layer uses once is delivered as soon as its gradient is there, so that its factors are freed.
        """
        self._pass = _Pass(records, deliver)
        self._registered: defaultdict[str, int] = defaultdict(int)
        self._waiting: defaultdict[str, list[Use]] = defaultdict(list)
        try:
            yield self._forward_is_over
            for name, uses in self._waiting.items():
                deliver(name, uses)
        finally:
            self._pass = None
            self._waiting = defaultdict(list)

    def _forward_is_over(self) -> None:
        assert self._pass is not None
        self._pass.forward = False

    def _forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        run = self._pass
        if run is None or not torch.is_grad_enabled() or not args or not isinstance(output, Tensor):
            return None
        wanted = {attribute: name for attribute, name in self._layers[module].items() if name in self.names}
        if not wanted:
            return None
        inputs: Tensor = args[0].detach()
        shown = output
        if inputs.shape[0] != run.records:
            if inputs.shape[0] != 1:
                self.misfits |= set(wanted.values())
                return None
            inputs = inputs.expand(run.records, *inputs.shape[1:])
            shown = shown.expand(run.records, *shown.shape[1:])
        if not shown.requires_grad:
            # Weights are frozen meanwhile, so that nothing is spent on their gradients: the pass begins here.
            shown = shown.detach().requires_grad_(True).clone()
        if run.forward:
            for name in wanted.values():
                self._registered[name] += 1
        version = inputs._version

        def arrived(gradient: Tensor) -> None:
            if self._pass is not run or run.forward:
                return
            if inputs._version != version:
                raise UnsupportedError(
                    f"the inputs of a {type(module).__name__} were changed in place after it ran, so that its "
                    "gradient cannot be taken from them"
                )
            with torch.no_grad():
                for attribute, name in wanted.items():
                    use = _use(module, attribute, inputs, gradient.detach())
                    if name in self._shared or self._registered[name] != 1:
                        self._waiting[name].append(use)
                    else:
                        run.deliver(name, [use])

        shown.register_hook(arrived)  # type: ignore[no-untyped-call]
        return None if shown is output else shown


def _known(module: nn.Module) -> bool:
    # Whether a layer of a known name really computes what it should is measured (`measure._misread`).
    return is_linear(module) or isinstance(module, nn.Embedding) or _is_norm(module)


def _is_norm(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False))
    return type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and all(
        name in ("weight", "bias") and parameter.dim() == 1 for name, parameter in own.items()
    )


def _use(module: nn.Module, attribute: str, inputs: Tensor, gradient: Tensor) -> Use:
    gradient = _positions(_wide(gradient))
    if isinstance(module, nn.Embedding):
        index = inputs.reshape(len(inputs), -1)
        if module.padding_idx is not None:
            index = index.masked_fill(index == module.padding_idx, -1)
        return Rows(index, gradient)
    if attribute == "bias":
        return Vector(gradient)
    if _is_norm(module):
        return Vector(gradient * _positions(_normalized(module, inputs)))
    inputs = _positions(_wide(inputs))
    return Outer(gradient, inputs) if isinstance(module, nn.Linear) else Outer(inputs, gradient)


def _normalized(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a norm's weight is multiplied with, whether it is weight * x or (1 + weight) * x."""
    own = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters(recurse=False)}
    without = functional_call(module, own, (inputs,))
    scaled = functional_call(module, {**own, "weight": torch.ones_like(own["weight"])}, (inputs,))
    return _wide(scaled) - _wide(without)


def _positions(tensor: Tensor) -> Tensor:
    """(records, positions, size)."""
    return tensor[:, None] if tensor.dim() == 2 else tensor.flatten(1, -2)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
