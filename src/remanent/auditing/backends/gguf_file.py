"""GGUF: the file that llama.cpp would load, written from the saved folder or made by the user."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remanent.core.files import sha256_file
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models.gguf import load_gguf_model
from remanent.models.gguf_rope import read_scaling, value_of
from remanent.models.gguf_write import write_gguf

_ARITHMETIC = "the weights as the file holds them, arithmetic in float32, where llama.cpp also rounds activations"
_SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
}


@dataclass(frozen=True, slots=True)
class WrittenGGUF:
    """The saved folder written as a GGUF file, and read back.

    Args:
        kind: one of `remanent.models.gguf_write.TYPES`.
    """

    kind: str

    @property
    def name(self) -> str:
        """ "gguf-q4_0" and so on."""
        return f"gguf-{self.kind}"

    @property
    def description(self) -> str:
        """What lies in which type."""
        finer = "; the output's matrix in q8_0" if self.kind[:2] in ("q4", "q5") else ""
        blocks = ", blocks of 32 weights of a row" if self.kind.startswith("q") else ""
        where = "every matrix, embeddings too"
        return f"Written as a GGUF file and read back: {where}, in {self.kind}{blocks}{finer}; {_ARITHMETIC}."

    def check(self) -> None:
        """The package gguf is always there."""

    def open(self, folder: Path, device: torch.device) -> nn.Module:
        """The model that comes back from the file."""
        with tempfile.TemporaryDirectory(prefix="remanent-") as place:
            file = write_gguf(folder, Path(place) / "model.gguf", self.kind)
            model: nn.Module = load_gguf_model(file, torch.float32)
            return model.to(device).eval()


@dataclass(frozen=True, slots=True)
class GivenGGUF:
    """A GGUF file of the audited model that its user made, with a K-quant for example.

    Args:
        path: the file.
        sha256: of the file, when the condition was made.
    """

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> GivenGGUF:
        """Raises InputError where there is no such file."""
        if not path.is_file() or path.suffix != ".gguf":
            raise InputError("at", f"gguf:{path}", "a .gguf file that is there")
        return cls(path, sha256_file(path))

    def __repr__(self) -> str:
        return f"GivenGGUF({self.path.name}, {self.sha256})"  # the folder it lies in decides nothing

    @property
    def name(self) -> str:
        """With the file's name, without its folder."""
        return f"gguf:{self.path.name}"

    @property
    def description(self) -> str:
        """Names the file by its SHA-256."""
        return (
            f"The GGUF file {self.path.name} (sha256 {self.sha256}), which the user says was made from this model; "
            f"{_ARITHMETIC}. The original and the retrained model, of which there is no such file, are asked as saved."
        )

    def check(self) -> None:
        """The package gguf is always there."""

    def check_fits(self, model: Any) -> None:
        """Refuse a file whose sizes are not those of the audited model, or whose positions cannot be had; reads no
        weights. Raises InputError, UnsupportedError, IntegrityError.
        """
        import gguf

        try:
            reader = gguf.GGUFReader(self.path)
            kind = _field(reader, "general.architecture")
            found = {size: _field(reader, f"{kind}.{key}") for size, key in _SIZES.items()}
            found["vocab_size"] = next(int(t.shape[-1]) for t in reader.tensors if t.name == "token_embd.weight")
            read_scaling(reader)
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.path.name}: {error}") from error
        except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
            raise IntegrityError(f"{self.path.name}: is not a whole GGUF file of a language model: {error}") from error
        own = {size: getattr(model.config.get_text_config(), size) for size in found}
        if own != found:
            shown = ", ".join(f"{size} {value}" for size, value in own.items())
            raise InputError("at", self.name, f"a file of the audited model, which has {shown}")

    def open(self, folder: Path, device: torch.device) -> nn.Module:
        """The file's model, whatever lies in `folder`."""
        model: nn.Module = load_gguf_model(self.path, torch.float32)
        return model.to(device).eval()


def _field(reader: Any, key: str) -> Any:
    value = value_of(reader, key)
    if value is None:
        raise KeyError(key)
    return value
