"""The one handle on what may move: names, tensors and the modules that own them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from remanent.errors import InputError, UnsupportedError

# "linear": weight of a linear layer inside the model; "head": the layer that makes the logits; "adapter": weight of a
# LoRA; "vector": every other parameter of one dimension (biases, norms); "other": what is left.
KINDS = ("linear", "head", "embedding", "adapter", "vector", "other")

# Modules of transformers that keep the inputs of a matrix before its outputs, and do not say so themselves.
_INPUTS_FIRST = ("Conv1D", "Llama4TextExperts")
_ADAPTER_PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")


class Weights(Mapping[str, Tensor]):
    """Floating-point parameters by name, each tensor once, with the module that owns it.

    Tied parameters, and parameters that are the same view of the same storage, appear under the first name only: what
    moves one moves the other.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        owners: Mapping[str, nn.Module] | None = None,
        kinds: Mapping[str, str] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self._tensors = dict(tensors)
        self._owners = dict(owners or {})
        self._kinds = dict(kinds or {})
        self.model = model

    @classmethod
    def of(cls, source: nn.Module | Weights | Iterable[Mapping[str, Any]]) -> Weights:
        """Weights of a module, or of an optimizer's `param_groups`.

        Of a module of FSDP2 they are its shards: what was gathered for a pass is let go.

        Raises UnsupportedError for parameters whose shards have no rows (FSDP1, ZeRO-3).
        """
        if isinstance(source, Weights):
            return source
        if isinstance(source, nn.Module):
            return cls._of_module(source)
        groups = list(source)
        if not all(isinstance(group, Mapping) and "params" in group for group in groups):
            raise InputError("weights", type(source).__name__, "a torch.nn.Module or an optimizer's param_groups")
        tensors: dict[str, Tensor] = {}
        seen: set[tuple[Any, ...]] = set()
        for number, group in enumerate(groups):
            for index, parameter in enumerate(group["params"]):
                _refuse_rowless(f"{number}.{index}", parameter)
                if parameter.is_floating_point() and identity(parameter) not in seen:
                    seen.add(identity(parameter))
                    tensors[f"{number}.{index}"] = parameter
        return cls(tensors)

    @classmethod
    def _of_module(cls, model: nn.Module) -> Weights:
        reshard(fsdp_modules(model))
        tensors: dict[str, Tensor] = {}
        owners: dict[str, nn.Module] = {}
        kinds: dict[str, str] = {}
        seen: set[tuple[Any, ...]] = set()
        head = _head(model)
        for prefix, module in model.named_modules():
            for attribute, parameter in module.named_parameters(recurse=False):
                name = f"{prefix}.{attribute}" if prefix else attribute
                _refuse_rowless(name, parameter)
                if not parameter.is_floating_point() or identity(parameter) in seen:
                    continue
                seen.add(identity(parameter))
                tensors[name], owners[name] = parameter, module
                kinds[name] = _kind(name, parameter, module, head)
        return cls(tensors, owners, kinds, model)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def owner(self, name: str) -> nn.Module | None:
        """The module that owns a weight; None for weights of param_groups."""
        return self._owners.get(name)

    def of_experts(self, name: str) -> bool:
        """Whether a tensor holds a matrix for each of a mixture's experts, which are its first dimension."""
        named = "expert" in name or "Experts" in type(self.owner(name)).__name__
        return named and self._tensors[name].dim() == 3

    def transposed(self, name: str) -> bool:
        """Whether a matrix, or each expert's, has its inputs before its outputs, as GPT-2's have: a column is a
        neuron."""
        owner = self.owner(name)
        if self.of_experts(name) and getattr(owner, "is_transposed", False):  # as transformers marks its experts
            return True
        matrices = self.of_experts(name) or self._tensors[name].dim() == 2
        return matrices and type(owner).__name__ in _INPUTS_FIRST

    def within_rows(self, name: str) -> tuple[int, ...]:
        """The dimensions that run within a row: all but that of the neurons, or filters, and that of experts."""
        if self.of_experts(name):
            return (1,) if self.transposed(name) else (2,)
        rows = int(self.transposed(name))
        return tuple(dimension for dimension in range(self._tensors[name].dim()) if dimension != rows)

    def kind(self, name: str) -> str:
        """The kind of layer that owns a weight, one of KINDS."""
        return self._kinds.get(name, "other" if self._tensors[name].dim() > 1 else "vector")

    def only(self, names: Iterable[str]) -> Weights:
        """The weights of those names."""
        chosen = {name: self._tensors[name] for name in names}
        return Weights(chosen, self._owners, self._kinds, self.model)

    def trainable(self) -> Weights:
        """The weights that take a gradient."""
        return self.only(name for name, tensor in self.items() if tensor.requires_grad)


def is_linear(module: nn.Module) -> bool:
    """Whether a layer is linear: nn.Linear, or GPT-2's Conv1D, which keeps its inputs in the first dimension."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def has_adapter(model: nn.Module) -> bool:
    """Whether a model has a LoRA."""
    return any(part in _ADAPTER_PARTS for name, _ in model.named_parameters() for part in name.split("."))


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors exactly when they are the same view of the same memory."""
    inner = local(tensor)
    if inner.is_meta or inner.numel() == 0:
        return (id(tensor),)
    return (inner.device, inner.data_ptr(), tuple(inner.shape), inner.stride(), inner.dtype)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: the tensor itself unless it is sharded (FSDP2)."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def sharded_on(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions on which a tensor is sharded over processes; () when it is whole."""
    placements: Sequence[Any] = getattr(tensor, "placements", ())
    return tuple(placement.dim for placement in placements if placement.is_shard())


def fsdp_modules(model: nn.Module | None) -> list[Any]:
    """Those of a model's modules whose weights FSDP2 gathers for their passes."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import; where nothing has, nothing is sharded
    return (
        []
        if fsdp is None or model is None
        else [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]
    )


def reshard(modules: Iterable[Any]) -> None:
    """Let go of whole weights that modules of FSDP2 hold after a pass without a backward pass.

    Until then the modules' parameters are those copies, and the next pass reads them, whatever is written to the
    shards.
    """
    for module in modules:
        module.reshard()


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """The L2 norm over all tensors together, in at least float32, over all shards where they are sharded."""
    if isinstance(tensors, list) and tensors and all(type(t) is Tensor and t.dtype == torch.float32 for t in tensors):
        lengths = list(torch._foreach_norm(tensors))  # a few kernels, not one for each
        tensors = []
    else:
        lengths = []
    for tensor in tensors:
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        length = torch.linalg.vector_norm(tensor.detach(), dtype=dtype)  # one pass, no copy
        full = getattr(length, "full_tensor", None)
        lengths.append(length if full is None else full())
    if not lengths:
        return torch.zeros(())
    whole: Tensor = torch.linalg.vector_norm(_beside(lengths))
    return whole


def inner(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The inner product over all pairs together, in at least float32, over all shards where they are sharded."""
    products = []
    for one, other in pairs:
        product = (one.detach() * other.detach()).sum(dtype=torch.promote_types(one.dtype, torch.float32))
        full = getattr(product, "full_tensor", None)
        products.append(product if full is None else full())
    return _beside(products).sum() if products else torch.zeros(())


def _beside(numbers: Sequence[Tensor]) -> Tensor:
    return torch.stack([number.to(numbers[0].device) for number in numbers])


def _head(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if callable(getter) else None


def _kind(name: str, parameter: Tensor, module: nn.Module, head: nn.Module | None) -> str:
    if any(part in name.split(".") for part in _ADAPTER_PARTS):
        return "adapter"
    if head is not None and module in (head, getattr(head, "base_layer", None)):
        return "head"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if parameter.dim() == 2 and is_linear(module):
        return "linear"
    return "vector" if parameter.dim() <= 1 else "other"


def _refuse_rowless(name: str, parameter: Tensor) -> None:
    if type(parameter).__name__ == "FlatParameter" or getattr(parameter, "_is_flat_param", False):
        raise UnsupportedError(f"{name} is a flat FSDP1 shard, which has no rows; use FSDP2 (fully_shard)")
    if hasattr(parameter, "ds_id"):
        raise UnsupportedError(f"{name} is partitioned by ZeRO-3, whose shards have no rows; use ZeRO-1/2 or FSDP2")
