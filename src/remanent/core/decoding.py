"""How answers are drawn from a model: part of what a condition is, and no matter of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

SAMPLES = 8
# What a model's own generation settings may change about how likely a token is: a repetition penalty, for one, pushes
# down the words that the question holds.
_PLAIN = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1}
_WHOLE = {"top_p": 1.0, "top_k": 0, "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


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
        """Keywords for transformers' `generate`; the model's own settings are taken away."""
        unset = dict.fromkeys(("temperature", *_WHOLE))
        return {"do_sample": False, **unset, **_PLAIN}


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
        """Keywords for transformers' `generate`: nothing is cut off the distribution, and no token penalized."""
        drawn = {"do_sample": True, "temperature": self.temperature, "num_return_sequences": self.samples}
        return {**drawn, **_WHOLE, **_PLAIN}
