"""Interventions beside a model's weights: one file of plain data, read when the model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from remanent.core.intervention import put_on, worn
from remanent.errors import IntegrityError

if TYPE_CHECKING:
    from torch import nn

FILE = "interventions.safetensors"


def write_worn(model: nn.Module, folder: Path) -> None:
    """Write what a model wears, if anything."""
    from safetensors.torch import save_file

    items = worn(model)
    if not items:
        return
    tensors = {
        f"{number}.{name}": tensor.detach().cpu().contiguous()
        for number, item in enumerate(items)
        for name, tensor in item.tensors.items()
    }
    described = [{"kind": item.kind, "settings": dict(item.settings)} for item in items]
    # A file of safetensors holds at least one tensor.
    save_file(tensors or {"none": torch.zeros(1)}, folder / FILE, {"interventions": json.dumps(described)})


def put_on_saved(model: nn.Module, folder: Path | None) -> None:
    """Put on what lies beside a model's weights. Raises IntegrityError where the file is not what `save` writes."""
    if folder is None or not (folder / FILE).is_file():
        return
    from safetensors import SafetensorError, safe_open

    from remanent.core.catalogue import restored_intervention

    try:
        with safe_open(folder / FILE, framework="pt") as opened:
            described = json.loads(opened.metadata()["interventions"])
            # Cloned, since a file's tensor may lie in memory where a product of it is rounded otherwise.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        for number, item in enumerate(described):
            own = {
                name.partition(".")[2]: tensor
                for name, tensor in tensors.items()
                if name.partition(".")[0] == str(number)
            }
            put_on(model, restored_intervention(item["kind"], item["settings"], own))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{folder / FILE}: is not what save writes: {error}") from error
