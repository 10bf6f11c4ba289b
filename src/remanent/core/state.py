"""Keep a model's state, and give it back bit for bit whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor, nn

from remanent.core.weights import Weights, fsdp_modules, local, reshard

_OPEN = "_remanent_open_states"


class State:
    """A context manager that gives back weights, buffers, gradients, modes, requires_grad and generator states.

    Blocks nest, last in first out. One that is left out of turn first leaves those that were entered after it, so
    that the weights are right, and then raises RuntimeError.
    """

    def __init__(
        self, weights: Weights, moved: Weights, gradients_aside: bool, learning: bool, keep_buffers: bool
    ) -> None:
        self._weights, self._moved = weights, moved
        self._gradients_aside, self._learning = gradients_aside, learning
        self._keep_buffers = keep_buffers or (learning and not moved)
        self._keep_weights = False
        self._open = False

    @classmethod
    def of(
        cls,
        weights: Weights,
        *,
        moved: Weights,
        gradients_aside: bool,
        learning: bool = False,
        keep_buffers: bool = False,
    ) -> State:
        """A state to enter.

        Args:
            weights: every weight of the model.
            moved: those whose values are kept and given back: the memory that the block costs.
            gradients_aside: take `.grad` away inside and give it back; otherwise gradients flow through the block.
            learning: the generators go on where the block left them, so that the next pass draws other dropout; and
                where nothing moved the buffers keep what they became, as in any training pass.
            keep_buffers: the buffers keep what they became, also where something moved.
        """
        return cls(weights, moved, gradients_aside, learning, keep_buffers)

    def weight(self, name: str) -> Tensor:
        """A weight as it was when the block was entered."""
        return self._values.get(name, self._weights[name])

    def keep_weights(self) -> dict[str, Tensor]:
        """Let the weights stay as they are when the block is left without an error; returns the values from before."""
        self._keep_weights = True
        return self._values

    def __enter__(self) -> State:
        model = self._weights.model
        self._fsdp_modules = fsdp_modules(model)
        reshard(self._fsdp_modules)  # what moves are the shards
        modules = list(model.modules()) if model is not None else []
        # All parameters of the model: those that `weights` leaves out (another view of the same memory, a selection)
        # take gradients inside the block too.
        parameters = list(self._weights.values() if model is None else model.parameters())
        # preserve_format keeps strides, so that copying back restores the same memory.
        self._values = {name: tensor.detach().clone() for name, tensor in self._moved.items()}
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in modules
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self._modes = [(module, module.training) for module in modules]
        self._requires_grad = [(tensor, tensor.requires_grad) for tensor in parameters]
        # Only where they are given back: a reference keeps their memory while others are made.
        self._gradients = [(tensor, tensor.grad) for tensor in parameters if self._gradients_aside]
        for tensor, _ in self._gradients:
            tensor.grad = None
        self.rewind_generators = keep_generators(self._weights)
        self._stack().append(self)
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        stack = self._stack()
        out_of_turn = stack[-1] is not self
        while stack:
            state = stack.pop()
            state._give_back(keep_weights=state._keep_weights and kind is None and not out_of_turn)
            if state is self:
                break
        if not stack:
            del self._holder().__dict__[_OPEN]
        if out_of_turn:
            raise RuntimeError("a displaced block was left before one that was entered after it; both have been undone")

    @torch.no_grad()
    def _give_back(self, keep_weights: bool) -> None:
        self._open = False
        reshard(self._fsdp_modules)
        if not keep_weights:
            for name, value in self._values.items():
                self._moved[name].copy_(value)
        self._values = {}
        torch.clear_autocast_cache()  # an enclosing autocast holds casts of the weights that were just left
        if not self._keep_buffers:
            self.rewind_buffers()
        for module, training in self._modes:
            module.training = training
        for tensor, requires_grad in self._requires_grad:
            tensor.requires_grad_(requires_grad)
        for tensor, gradient in self._gradients:
            tensor.grad = gradient
        if not self._learning:
            self.rewind_generators()

    @torch.no_grad()
    def rewind_buffers(self) -> None:
        """Put the buffers back as they were when the block was entered."""
        for module, name, buffer, value in self._buffers:
            local(buffer).copy_(local(value))
            if module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer

    def _stack(self) -> list[State]:
        stack: list[State] = self._holder().__dict__.setdefault(_OPEN, [])
        return stack

    def _holder(self) -> nn.Module | Weights:
        return self._weights.model if self._weights.model is not None else self._weights


def keep_generators(weights: Weights) -> Callable[[], None]:
    """Note where torch's default generators are, on the CPU and where the weights lie; the function that is returned
    puts them back there."""
    cpu = torch.get_rng_state()
    devices = {tensor.device for tensor in weights.values() if tensor.is_cuda}
    states = [(device, torch.cuda.get_rng_state(device)) for device in devices]

    def rewind() -> None:
        torch.set_rng_state(cpu)
        for device, state in states:
            torch.cuda.set_rng_state(state, device)

    return rewind
