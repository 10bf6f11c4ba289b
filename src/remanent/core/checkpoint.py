"""Checkpoints: safetensors and JSON in a folder of their own, with a manifest of hashes written last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from remanent.core.files import naming, read_json, sha256_file, write_json
from remanent.errors import IntegrityError

_MANIFEST = "manifest.json"
_REFERENCE = "__tensor__"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Args:
        step: updates made.
        weights: name -> tensor: what trains, and buffers.
        state: everything else: tensors and plain data, nested in dicts, lists and tuples.
    """

    step: int
    weights: Mapping[str, Tensor]
    state: Any


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's folder whole or not at all; one of that name is replaced.

    Raises OSError, which names the file, where the disk is full; what was there before stays.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tensors: dict[str, Tensor] = {}
        plain = _flatten(checkpoint.state, "state", tensors)
        _save(temporary / "weights.safetensors", checkpoint.weights)
        _save(temporary / "state.safetensors", tensors)
        write_json(temporary / "state.json", {"step": checkpoint.step, "state": plain})
        write_json(temporary / _MANIFEST, {file.name: sha256_file(file) for file in sorted(temporary.iterdir())})
        if folder.exists():
            _remove(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises IntegrityError, which names the file, where one is missing or not the one saved."""
    manifest = read_json(folder / _MANIFEST)
    if not isinstance(manifest, dict) or set(manifest) != {"weights.safetensors", "state.safetensors", "state.json"}:
        raise IntegrityError(f"{folder / _MANIFEST} does not list a checkpoint's files")
    for name, digest in manifest.items():
        file = folder / name
        if not file.is_file():
            raise IntegrityError(f"{file} is missing")
        if sha256_file(file) != digest:
            raise IntegrityError(f"{file} is not the file that was saved: its SHA-256 differs from the manifest's")
    saved = read_json(folder / "state.json")
    try:
        state = _unflatten(saved["state"], load_file(folder / "state.safetensors"))
        return Checkpoint(saved["step"], load_file(folder / "weights.safetensors"), state)
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise IntegrityError(f"{folder} does not hold a checkpoint's state: {error!r}") from error


def steps_saved(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder, newest first: (step, folder)."""
    found = [(int(item.name[5:]), item) for item in folder.glob("step-*") if item.name[5:].isdecimal()]
    return sorted(found, reverse=True)


def step_folder(folder: Path, step: int) -> Path:
    """Where a step's checkpoint lies."""
    return folder / f"step-{step:08d}"


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints, and what broken-off writes left."""
    for _, old in steps_saved(folder)[keep:]:
        _remove(old)
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _remove(folder: Path) -> None:
    # Renamed first, so that one that is half removed never goes by a checkpoint's name.
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone.tmp")
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _save(file: Path, tensors: Mapping[str, Tensor]) -> None:
    # Clones where memory is shared, which safetensors refuses.
    owned: set[int] = set()
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous()
        whole[name] = part.clone() if part.untyped_storage().data_ptr() in owned else part
        owned.add(whole[name].untyped_storage().data_ptr())
    with naming(file):
        save_file(whole, file)
        with open(file, "rb") as written:
            os.fsync(written.fileno())


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Plain data with a reference in each tensor's place; keys that are not text are kept as pairs."""
    if isinstance(value, Tensor):
        key = f"{len(tensors)}.{path}"  # numbered, since 'a.b' may be one key or two
        tensors[key] = value
        return {_REFERENCE: key}
    if isinstance(value, Mapping):
        return {"pairs": [[key, _flatten(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, tuple | list):
        items = [_flatten(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold")


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if _REFERENCE in value:
        return tensors[value[_REFERENCE]]
    if "pairs" in value:
        return {key: _unflatten(item, tensors) for key, item in value["pairs"]}
    if "tuple" in value:
        return tuple(_unflatten(item, tensors) for item in value["tuple"])
    return [_unflatten(item, tensors) for item in value["list"]]


def renewed(kept: dict[str, Tensor] | None, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a model's tensors: in the place of an earlier one, beside which a new one would hold them once more."""
    if kept is None:
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}
    copy_into(kept, tensors, "the model")
    return kept


def copy_into(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], origin: object) -> None:
    """Write saved tensors into a model's, in place. Raises IntegrityError where names or shapes differ."""
    if set(targets) != set(values):
        odd = sorted(set(targets) ^ set(values))[:3]
        raise IntegrityError(f"{origin} holds other tensors than the model trains: {', '.join(odd)} ...")
    for name, target in targets.items():
        if target.shape != values[name].shape:
            raise IntegrityError(f"{origin}: {name} has shape {tuple(values[name].shape)}")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])
