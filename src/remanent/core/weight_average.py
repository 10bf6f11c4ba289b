"""A copy of a model whose weights are the exponential moving average of the model's: a teacher from its own past."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.model_inputs import logits_of, unwrapped
from remanent.core.weights import fsdp_modules
from remanent.errors import InputError, UnsupportedError


class WeightAverage:
    """v, which starts as the model's weights w; each update makes it decay * v + (1 - decay) * w.

    Averaged are the weights that train, and floating-point buffers, such as batch norm's statistics; other buffers are
    copied. Weights that do not train are shared with the model, not copied: of a LoRA the teacher costs the adapters.

    Args:
        model: the model, before training; under DistributedDataParallel either it or the wrapper.
        decay: from 0 to less than 1, per update.

    Raises InputError for a decay out of range, or a model of which nothing trains; UnsupportedError under FSDP2.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        check_decay("decay", decay)
        self._of, self.decay = unwrapped(model), decay
        if fsdp_modules(self._of):
            raise UnsupportedError("FSDP2's modules cannot be copied, so that there is no average of their weights")
        if not any(weight.requires_grad for weight in self._of.parameters()):
            raise InputError("model", type(self._of).__name__, "a model of which something trains")
        if any(w.requires_grad and w.dtype in (torch.bfloat16, torch.float16) for w in self._of.parameters()):
            text = "an average of weights in 16 bits swallows most of each update; keep them in float32 under autocast"
            warnings.warn(text, stacklevel=3)
        shared = {id(weight): weight for weight in self._of.parameters() if not weight.requires_grad}
        self.model = copy.deepcopy(self._of, shared).eval()
        for weight in self.model.parameters():
            weight.requires_grad_(False)

    @torch.no_grad()
    def logits(self, *inputs: Any, **named: Any) -> Tensor:
        """The teacher's logits, in eval mode, without a graph."""
        self._follow()
        return logits_of(self.model(*inputs, **named))

    @torch.no_grad()
    def update(self, decay: float | None = None) -> None:
        """Take up the model's weights of now; `decay` in place of the usual one."""
        self._follow()
        share = 1.0 - (self.decay if decay is None else decay)
        averaged = self._averaged()
        model = _tensors(self._of)
        now = [model[name].detach() for name in averaged]
        torch._foreach_lerp_(list(averaged.values()), now, share)
        counts = dict(self._of.named_buffers())
        for name, buffer in self.model.named_buffers():
            if not buffer.is_floating_point():
                buffer.copy_(counts[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> average, of what is averaged."""
        return {name: tensor.detach().clone() for name, tensor in self._averaged().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave. Raises InputError for another model's."""
        averaged = self._averaged()
        if state.keys() != averaged.keys():
            raise InputError("state", sorted(state)[:3], f"the averages of {', '.join(sorted(averaged)[:3])} ...")
        for name, tensor in averaged.items():
            tensor.copy_(state[name])

    def _follow(self) -> None:
        """Be where the model is, tensor by tensor: trainers move it after this was made, and with it what is shared."""
        there = _tensors(self._of)
        for name, tensor in _tensors(self.model).items():
            device = there[name].device
            if tensor.device != device:
                owner = self.model.get_submodule(name.rpartition(".")[0])
                owner._apply(partial(Tensor.to, device=device), recurse=False)  # type: ignore[no-untyped-call]

    def _averaged(self) -> dict[str, Tensor]:
        training = [name for name, weight in self._of.named_parameters() if weight.requires_grad]
        floating = [name for name, buffer in self._of.named_buffers() if buffer.is_floating_point()]
        own = _tensors(self.model)
        return {name: own[name] for name in (*training, *floating)}


def check_decay(field: str, decay: float) -> None:
    """Raise InputError unless a decay is from 0 to less than 1."""
    if not 0 <= decay < 1:
        raise InputError(field, decay, "a number from 0 to less than 1")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
