"""How far a model's predictions on a batch lie from those at another point: what TRAM climbs by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.displacement import Here, Restored
from remanent.core.divergence import mean_divergence
from remanent.core.model_inputs import changed_input, counting, logits_of, unwrapped
from remanent.core.state import keep_generators
from remanent.core.weights import Weights
from remanent.errors import InputError


@dataclass(frozen=True)
class _Pass:
    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    logits: Tensor
    rewind: Callable[[], None]
    autocast: tuple[bool, torch.dtype]


class TrustRegion:
    """d = mean over positions of KL(softmax f_there(x) || softmax f(x)), x the batch that was passed in `watching`.

    f_there is asked in the same mode, precision and generator state as f was, so that dropout's masks are the same and
    d is no matter of chance; nothing of it stays, in buffers or generators. In float32, without a gradient. Positions
    that `attention_mask` leaves out do not count. What is compiled runs uncompiled for both, or masks and rounding
    would differ. Subclasses say where "there" is.

    Args:
        model: the model; under DistributedDataParallel and torch.compile either it or the wrapper.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrapped(model)
        self._passes: list[_Pass] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the forward passes made inside the block, with their logits; those of an earlier block are let go."""
        self._passes = []
        weights = Weights.of(self.model)
        device = next(iter(weights.values())).device.type
        begun: list[tuple[Callable[[], None], tuple[bool, torch.dtype]]] = []

        def before(*_: Any) -> None:
            precision = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            begun.append((keep_generators(weights), precision))

        def after(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            rewind, precision = begun.pop()
            if torch.is_grad_enabled():
                self._passes.append(_Pass(inputs, named, logits_of(output).detach(), rewind, precision))

        handles = [
            self.model.register_forward_pre_hook(before),
            self.model.register_forward_hook(after, with_kwargs=True),
        ]
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """d of the passes that were kept, which are let go. Raises InputError where there are none."""
        passes, self._passes = self._passes, []
        if not passes:
            raise InputError("distance", None, "a forward pass of its model, with gradients, inside `watching()`")
        total, count = torch.zeros((), dtype=torch.float64), 0
        device = passes[0].logits.device.type
        with torch.compiler.set_stance("force_eager"), self._there():
            for one in passes:
                one.rewind()
                enabled, dtype = one.autocast
                with torch.autocast(device, dtype=dtype, enabled=enabled):
                    there = logits_of(self.model(*one.inputs, **one.named))
                mask = counting(one.logits, one.named)
                positions = one.logits.shape[:-1].numel() if mask is None else int(mask.count_nonzero())
                total += float(mean_divergence(there, one.logits, mask=mask)) * positions
                count += positions
        return (total / max(count, 1)).float()

    def state_dict(self) -> dict[str, Any]:
        """What it carries from one update to the next."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""

    def _there(self) -> AbstractContextManager[None]:
        """Inside the block the model answers as it does there."""
        raise TypeError(f"{type(self).__name__} does not say where the other point is")


class InitialWeights(TrustRegion):
    """There: the weights as they were when this was made (TRAM-theta_0).

    Keeps a copy of what trains; of a LoRA that was just put on that is the model with its adapters off.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._kept = {name: tensor.detach().clone() for name, tensor in Weights.of(self.model).trainable().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"kept": {name: value.clone() for name, value in self._kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        weights = Weights.of(self.model)
        self._kept = {name: value.to(weights[name].device, copy=True) for name, value in state["kept"].items()}

    def _there(self) -> AbstractContextManager[None]:
        return Restored(self._kept).at(self.model)


class PreviousWeights(InitialWeights):
    """There: the weights as they were when this was last asked (TRAM-theta_{t-1}); at first those it was made with.

    Keeps a copy of what trains. In the first update d is 0.
    """

    @torch.no_grad()
    def __call__(self) -> Tensor:
        found = super().__call__()
        weights = Weights.of(self.model)
        for name, value in self._kept.items():
            value.copy_(weights[name])
        return found


class NoisedInputs(TrustRegion):
    """There: the same weights, the input or its embeddings with noise N(0, sigma^2) (TRAM-x).

    Args:
        model: the model.
        sigma: standard deviation, at least 0.
        seed: of the noise, drawn on the CPU from a generator of its own.

    Raises InputError for a sigma out of range.
    """

    def __init__(self, model: nn.Module, sigma: float = 0.1, *, seed: int = 0) -> None:
        super().__init__(model)
        if not 0 <= sigma < float("inf"):
            raise InputError("sigma", sigma, "a finite number of at least 0")
        self.sigma, self._generator = sigma, torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())

    def noised(self) -> AbstractContextManager[None]:
        """Inside the block the model's input has noise."""
        return changed_input(self.model, self._with_noise)

    def _with_noise(self, value: Tensor) -> Tensor:
        return value + self.sigma * torch.randn(value.shape, generator=self._generator).to(value)

    @contextmanager
    def _there(self) -> Iterator[None]:
        with Here().at(self.model), self.noised():
            yield
