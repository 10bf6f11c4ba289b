"""LoRA on packed weights: telling them, what a LoRA adds, and the merged view of a LoRA on a 4-bit base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remanent.errors import UnsupportedError

# Where quantizers of whole modules (GPTQ, AWQ, HQQ, AQLM) keep what was a weight.
_PACKED_NAMES = ("qweight", "W_q", "codes")


def is_packed(target: nn.Module | Tensor) -> bool:
    """Whether a weight, or the weight of a layer, is stored quantized, so that it cannot be moved in place.

    Args:
        target: a tensor; or a layer, of which its own tensors count and those of the layer that it adapts, but not
            those of its children.
    """
    if isinstance(target, Tensor):
        kind = type(target if not isinstance(target, nn.Parameter) else target.data)
        named = {type(target).__name__, kind.__name__} & {"Params4bit", "Int8Params"}
        one_byte = not target.is_floating_point() or target.element_size() == 1
        return bool(named) or one_byte or hasattr(target, "quant_state") or kind.__module__.startswith("torchao")
    base = getattr(target, "base_layer", None)
    if isinstance(base, nn.Module):
        return is_packed(base)
    weight = getattr(target, "weight", None)
    own = [*target.parameters(recurse=False), *([weight] if isinstance(weight, Tensor) else [])]
    return any(is_packed(tensor) for tensor in own) or any(
        isinstance(getattr(target, name, None), Tensor) for name in _PACKED_NAMES
    )


def keep_as_packed(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking a model's 4-bit layers, which it does on CPUs with AVX-512 bfloat16.

    It does so where a layer is asked in eval mode, for good: a repacked layer passes no gradient on to what stands
    before it and has its scales rounded to bfloat16, and a layer whose widths do not suit cannot be asked at all.
    """
    for module in model.modules():
        layer: Any = module
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def refuse_repacked(model: nn.Module) -> None:
    """Raise UnsupportedError where `keep_as_packed` comes too late."""
    for module in model.modules():
        _refuse_repacked(getattr(getattr(module, "weight", None), "quant_state", None))


def layers_under_lora(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Base layer -> the LoRA layer round it."""
    found: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Module) and hasattr(module, "lora_A"):
            found[base] = module
    return found


def lora_delta(layer: nn.Module) -> Tensor:
    """What a LoRA layer's active adapters add to its base weight: the sum of scaling * B A.

    Zero where adapters are disabled or merged already, as in the layer's forward. Adapter dropout has no part in it.

    Args:
        layer: a LoRA layer of peft on a linear or an embedding layer.

    Returns:
        float32, of the base weight's logical shape; differentiable in A and B, also under autocast.

    Raises:
        UnsupportedError: another kind of layer, or a variant of LoRA (DoRA and others), which is not a sum.
    """
    adapters, parts = _active_adapters(layer), _parts(layer)
    with torch.autocast(_base(layer).weight.device.type, enabled=False):
        total: Tensor | None = None
        for name in adapters:
            if name in parts.lora_embedding_A:
                product = (parts.lora_embedding_B[name].float() @ parts.lora_embedding_A[name].float()).T
            else:
                product = parts.lora_B[name].weight.float() @ parts.lora_A[name].weight.float()
                product = product.T if parts.fan_in_fan_out else product
            product = product * parts.scaling[name]
            total = product if total is None else total + product
    if total is not None:
        return total
    weight = _base(layer).weight
    shape = getattr(getattr(weight, "quant_state", None), "shape", weight.shape)
    return torch.zeros(shape, device=weight.device)


@contextmanager
def merged_forward(
    layer: nn.Module,
    round_weight: Callable[[Tensor], Tensor],
    clipped: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Inside the block, a LoRA layer on a packed base computes with its merged weight, rounded.

    The base W is dequantized, d = scaling * B A added, and x multiplied by round(W + d). The gradient is
    straight-through: it reaches A and B as if nothing had been rounded, zero where a value was clipped. Values and
    gradients are those of a dense layer, whatever is checkpointed, if **the backward pass runs inside the block
    too**: gradient checkpointing runs the forward once more in it. (Outside, checkpointing without reentry fails, and
    with reentry the gradient is that of the layer as it was.) Adapter dropout is off.

    The merged weight lives while the layer runs and, without gradient checkpointing, until its backward pass.
    The layer's own forward is back afterwards, whatever happens; blocks nest.

    Args:
        layer: a LoRA layer of peft on bitsandbytes' Linear4bit.
        round_weight: float32, (out, in) -> the same shape, rounded; must not change what it is given.
        clipped: float32, (out, in) -> bool, the values that rounding clips; None where it clips none.

    Raises:
        UnsupportedError: another layer or variant of LoRA, or a base whose packing cannot be read. Raised on entry.
    """
    _active_adapters(layer)
    _dequantized(layer)

    def forward(x: Tensor, *args: Any, **options: Any) -> Tensor:
        if args or any(value is not None for value in options.values()):
            raise UnsupportedError(f"a merged view takes one input, not {sorted(options) or len(args)} too")
        base, parts = _base(layer), _parts(layer)
        with torch.autocast(x.device.type, enabled=False):
            merged = _dequantized(layer) + lora_delta(layer)
            weight: Tensor = _StraightThrough.apply(merged, round_weight, clipped)  # type: ignore[no-untyped-call]
            bias = base.bias
            for name in _active_adapters(layer):
                added = parts.lora_B[name].bias
                if added is not None:
                    added = added * parts.scaling[name]
                    bias = added if bias is None else bias + added
            dtype = base.compute_dtype or x.dtype
            return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)).to(x.dtype)

    own = vars(layer)
    before = own.get("forward")
    own["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, round_weight: Callable[[Tensor], Tensor], clipped: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        if clipped is not None:
            ctx.save_for_backward(clipped(weight.detach()))
        return round_weight(weight.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        for clipped in ctx.saved_tensors:
            gradient = gradient.masked_fill(clipped, 0.0)
        return gradient, None, None


def _parts(layer: nn.Module) -> Any:
    return layer


def _base(layer: nn.Module) -> Any:
    return _parts(layer).get_base_layer()


def _active_adapters(layer: nn.Module) -> list[str]:
    """The adapters that the layer's forward adds, all of them plain LoRA."""
    from peft.tuners import lora

    kinds = (lora.Linear, lora.Embedding, *([lora.Linear4bit] if hasattr(lora, "Linear4bit") else []))
    if not isinstance(layer, kinds):
        raise UnsupportedError(
            f"{type(layer).__module__}.{type(layer).__name__} is no LoRA on a linear or embedding layer; "
            "a merged view is made of these only"
        )
    parts = _parts(layer)
    if parts.disable_adapters or parts.merged:
        return []
    here = [name for name in parts.active_adapters if name in parts.lora_A or name in parts.lora_embedding_A]
    for name in here:
        if name in parts.lora_variant:
            variant = type(parts.lora_variant[name]).__name__
            raise UnsupportedError(f"adapter {name} is a {variant}; a merged view needs plain LoRA (W + scaling * B A)")
    return here


def _dequantized(layer: nn.Module) -> Tensor:
    """The base weight, float32, (out, in)."""
    base = _base(layer)
    if type(base.weight).__name__ != "Params4bit":
        raise UnsupportedError(
            f"the base is a {type(base).__name__} with a weight of {base.weight.dtype}; the merged view of a packed "
            "base is made of bitsandbytes' Linear4bit only"
        )
    state = getattr(base.weight, "quant_state", None) or getattr(base, "quant_state", None)
    if state is None:
        raise UnsupportedError("the base is a Linear4bit that is not quantized yet: move the model to its device first")
    _refuse_repacked(state)
    from bitsandbytes.functional import dequantize_4bit

    with torch.no_grad():
        weight: Tensor = dequantize_4bit(base.weight.data, state)
    return weight.float()


def _refuse_repacked(state: Any) -> None:
    if getattr(state, "packing_format_for_cpu", False):
        raise UnsupportedError(
            "bitsandbytes has repacked the base for bfloat16 inference on this CPU, which loses its scales and its "
            "gradients: load the model again and call remanent.core.packed.keep_as_packed before its first forward"
        )
