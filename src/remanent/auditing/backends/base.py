"""What the audit asks of a real quantizer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from remanent.errors import InputError


class Backend(Protocol):
    """A real quantizer. Implementations are frozen dataclasses, whose repr names them in stored measurements."""

    @property
    def name(self) -> str:
        """As asked for with --at, for example "bnb-nf4"."""
        ...

    @property
    def description(self) -> str:
        """What the library really does: which layers, in which groups, in which arithmetic."""
        ...

    def check(self) -> None:
        """Raise InputError, which names the extra, where the library is not installed. Loads nothing."""
        ...

    def open(self, folder: Path, device: torch.device) -> nn.Module:
        """The model of a saved folder (safetensors, no adapter) as this back end runs it, in evaluation mode.

        Raises UnsupportedError where it cannot run here, or not this model, with the reason: it is then not measured.
        """
        ...


def require(package: str, extra: str, name: str) -> None:
    """Raise InputError where a package that the condition `name` needs is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError("at", name, f"the package {package}, which it needs: pip install 'remanent[{extra}]'")
