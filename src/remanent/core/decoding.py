"""How answers are drawn from a model: part of what a condition is, and no matter of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

SAMPLES = 8


class Decoding(Protocol):
    """How answers are drawn. Implementations are frozen dataclasses, whose repr names them in stored measurements."""

    @property
    def samples(self) -> int:
        """Answers to each prompt, of which the best counts."""
        ...

    def options(self) -> dict[str, Any]:
        """Keywords for transformers' `generate`."""
        ...


@dataclass(frozen=True, slots=True)
class Greedy:
    """The likeliest token each time."""

    samples = 1

    def options(self) -> dict[str, Any]:
        """Keywords for transformers' `generate`; None takes the model's own sampling settings away."""
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True, slots=True)
class Sampled:
    """Several answers drawn from the whole distribution: what the likeliest answer hides, one of them may say.

    Args:
        temperature: above 0; the logits are divided by it.
        samples: answers to each prompt.
    """

    temperature: float
    samples: int = SAMPLES

    def options(self) -> dict[str, Any]:
        """Keywords for transformers' `generate`: nothing is cut off the distribution."""
        drawn = {"do_sample": True, "temperature": self.temperature, "top_p": 1.0, "top_k": 0}
        return {**drawn, "num_return_sequences": self.samples}
