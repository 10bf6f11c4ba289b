"""Tensors of a saved model by name, one at a time, without loading the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from remanent.errors import InputError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class TensorFolder:
    """A folder of safetensors, whole or in shards.

    Args:
        folder: holds model.safetensors, or its index and shards.

    Raises InputError where it holds neither.
    """

    def __init__(self, folder: Path) -> None:
        if (folder / _SINGLE).is_file():  # transformers reads it where both are there
            files = {folder / _SINGLE}
        elif (folder / _INDEX).is_file():
            names = json.loads((folder / _INDEX).read_text())["weight_map"].values()
            files = {folder / Path(name).name for name in names}
        else:
            raise InputError("model folder", str(folder), f"a folder with {_SINGLE}")
        self._readers: dict[str, Callable[[str], Tensor]] = {}
        for file in sorted(files):
            reader = safe_open(file, framework="pt")
            self._readers.update(dict.fromkeys(reader.keys(), reader.get_tensor))  # type: ignore[no-untyped-call]

    @staticmethod
    def is_one(folder: Path) -> bool:
        """Whether a folder holds a model in safetensors."""
        return (folder / _INDEX).is_file() or (folder / _SINGLE).is_file()

    def get(self, name: str) -> Tensor | None:
        """The tensor of that name; None where there is none."""
        read = self._readers.get(name)
        return None if read is None else read(name)

    def names(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._readers)
