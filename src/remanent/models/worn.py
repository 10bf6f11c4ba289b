"""Interventions beside a model's weights: plain data, in a file that is read when the model is loaded, or in a
checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from remanent.core.intervention import put_on, worn
from remanent.errors import IntegrityError

if TYPE_CHECKING:
    from torch import nn

FILE = "interventions.safetensors"


def worn_state(model: nn.Module) -> list[dict[str, Any]]:
    """What a model wears, the first that was put on first: each one's kind, settings and tensors."""
    return [{"kind": item.kind, "settings": dict(item.settings), "tensors": dict(item.tensors)} for item in worn(model)]


def put_on_state(model: nn.Module, state: Sequence[Mapping[str, Any]]) -> None:
    """Put on what `worn_state` gave, over what the model wears."""
    from remanent.core.catalogue import restored_intervention

    for item in state:
        # Cloned, since a file's tensor may lie in memory where a product of it is rounded otherwise.
        tensors = {name: tensor.clone() for name, tensor in item["tensors"].items()}
        put_on(model, restored_intervention(item["kind"], item["settings"], tensors))


def write_worn(model: nn.Module, folder: Path) -> None:
    """Write what a model wears, if anything."""
    from safetensors.torch import save_file

    items = worn_state(model)
    if not items:
        return
    tensors = {
        f"{number}.{name}": tensor.detach().cpu().contiguous()
        for number, item in enumerate(items)
        for name, tensor in item["tensors"].items()
    }
    described = [{"kind": item["kind"], "settings": item["settings"]} for item in items]
    # A file of safetensors holds at least one tensor.
    save_file(tensors or {"none": torch.zeros(1)}, folder / FILE, {"interventions": json.dumps(described)})


def put_on_saved(model: nn.Module, folder: Path | None) -> None:
    """Put on what lies beside a model's weights. Raises IntegrityError where the file is not what `save` writes."""
    if folder is None or not (folder / FILE).is_file():
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / FILE, framework="pt") as opened:
            described = json.loads(opened.metadata()["interventions"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        for number, item in enumerate(described):
            start = f"{number}."
            own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            put_on_state(model, [{**item, "tensors": own}])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{folder / FILE}: is not what save writes: {error}") from error
