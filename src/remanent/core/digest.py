"""A model's weights as one hash, for what is computed from them once and kept."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


def weights_digest(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of every parameter and buffer: names, dtypes, shapes and bytes, in the order of names.

    Independent of the device, the mode and requires_grad. Of packed layers the scales count too; buffers that are not
    saved (rotary frequencies) count as well. One tensor at a time is brought to the CPU.
    """
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        raw: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(raw)
    return digest.hexdigest()
