"""How answers are drawn from a model: part of what a condition is, and no matter of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Decoding(Protocol):
    """How answers are drawn. Implementations are frozen dataclasses, whose repr names them in stored measurements."""

    def options(self) -> dict[str, Any]:
        """Keywords for transformers' `generate`."""
        ...


@dataclass(frozen=True, slots=True)
class Greedy:
    """The likeliest token each time."""

    def options(self) -> dict[str, Any]:
        """Keywords for transformers' `generate`; None takes the model's own sampling settings away."""
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
