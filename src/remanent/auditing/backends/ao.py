"""torchao: weight-only INT8 and INT4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remanent.auditing.backends.base import require
from remanent.core.packed import is_packed
from remanent.core.selection import LINEARS
from remanent.core.weights import Weights
from remanent.errors import UnsupportedError
from remanent.models.folder import load_folder

GROUPS = (128, 64, 32)  # what the INT4 kernels take, torchao's default first


@dataclass(frozen=True, slots=True)
class TorchaoInt8:
    """`Int8WeightOnlyConfig`."""

    name = "torchao-int8"
    description = (
        "Quantized by torchao's Int8WeightOnlyConfig: every linear layer but the output, a scale per row, max|w| / "
        "127.5, codes -128 to 127; arithmetic in float32."
    )

    def check(self) -> None:
        """Raise InputError without torchao."""
        require("torchao", "torchao", self.name)

    def open(self, folder: Path, device: torch.device) -> nn.Module:
        """The folder's model, its linear weights packed to 8 bits."""
        from torchao.quantization import Int8WeightOnlyConfig

        model: nn.Module = load_folder(folder, torch.float32)[0]
        return _quantized(model.to(device), Int8WeightOnlyConfig(set_inductor_config=False))


@dataclass(frozen=True, slots=True)
class TorchaoInt4:
    """`Int4WeightOnlyConfig`; torchao 0.18 runs it on CUDA with the package mslk, and not on the CPU."""

    name = "torchao-int4"
    description = (
        "Quantized by torchao's Int4WeightOnlyConfig: every linear layer but the output, with a scale and a zero point "
        "per group of 128 weights of a row, or of 64 or 32 where 128 does not divide every row; arithmetic in bfloat16."
    )

    def check(self) -> None:
        """Raise InputError without torchao."""
        require("torchao", "torchao", self.name)

    def open(self, folder: Path, device: torch.device) -> nn.Module:
        """The folder's model, its linear weights packed to 4 bits."""
        from torchao.quantization import Int4WeightOnlyConfig

        model: nn.Module = load_folder(folder, torch.bfloat16)[0]
        widths = {layer.in_features for layer in _linears(model).values()}
        group = next((size for size in GROUPS if all(width % size == 0 for width in widths)), None)
        if group is None:  # torchao itself leaves such layers as they are, and says nothing
            odd = min(width for width in widths if width % GROUPS[-1])
            raise UnsupportedError(f"cannot run here: rows of {odd} weights are no multiple of {GROUPS[-1]}")
        return _quantized(model.to(device), Int4WeightOnlyConfig(group_size=group, set_inductor_config=False))


def _quantized(model: nn.Module, config: Any) -> nn.Module:
    from torchao.quantization import quantize_

    layers = _linears(model)
    try:
        quantize_(model, config, filter_fn=lambda module, name: name in layers)
    except (ImportError, NotImplementedError, RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UnsupportedError(f"cannot run here: torchao on {next(model.parameters()).device}: {reason}") from error
    left = [name for name, layer in layers.items() if not is_packed(layer)]
    if left:
        raise UnsupportedError(f"cannot run here: torchao left {len(left)} layers as they were, the first: {left[0]}")
    return model.eval()


def _linears(model: nn.Module) -> dict[str, Any]:
    """Linear layers but the output, by name. Raises UnsupportedError for those that torchao would leave alone."""
    named = dict(model.named_modules())
    found = {name: named[name] for name in (name.removesuffix(".weight") for name in LINEARS.of(Weights.of(model)))}
    for name, layer in found.items():
        if not isinstance(layer, nn.Linear):
            kind = type(layer).__name__
            raise UnsupportedError(f"cannot run here: torchao quantizes nn.Linear, and {name} is a {kind}")
    return found
