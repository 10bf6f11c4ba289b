"""Scores of the reference model on fixed records, computed once and kept on disk: no second model is ever loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from remanent.core.batch import Encoded
from remanent.core.digest import weights_digest
from remanent.core.files import write_atomic
from remanent.core.processes import everywhere
from remanent.core.scores import score_records


def data_digest(encoded: Sequence[Encoded]) -> str:
    """SHA-256 over the records' tokens and labels."""
    digest = hashlib.sha256()
    for item in encoded:
        digest.update(repr((item.input_ids, item.labels)).encode())
    return digest.hexdigest()


def reference_nll(
    model: nn.Module,
    encoded: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
    cache: Path | None = None,
) -> Tensor:
    """Summed answer NLL of each record under the reference: the model as it is before training.

    With a LoRA that was just put on, that is the base; with one that was trained before, it is base and adapter, since
    that is the model which knows the records. Several processes share the batches out; each must call this.

    Args:
        model: before training.
        encoded: the records.
        pad_id: token that fills short rows.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic.
        cache: folder in which scores are kept, named by the hash of model, data and arithmetic.

    Returns:
        float32, (records,), in nats.
    """
    file = None
    if cache is not None:
        key = f"{weights_digest(model)}|{data_digest(encoded)}|{autocast}"
        file = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
        # One that has them waits for one that has not: they may run on several machines, or write meanwhile.
        if everywhere(file.is_file(), next(model.parameters()).device):
            return load_file(file)["nll"]
    scores = score_records(model, encoded, pad_id=pad_id, batch_size=batch_size, autocast=autocast, shared=True)
    nll = scores.nll.float()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save({"nll": nll}))
    return nll
