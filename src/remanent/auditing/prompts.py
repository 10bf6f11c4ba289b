"""In which words, and after what, records are asked: part of what a condition is, and no matter of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from remanent.data.record import Record


class Prompts(Protocol):
    """Another way of asking. Implementations are frozen dataclasses, whose repr names them in stored measurements."""

    def __call__(self, records: Sequence[Record]) -> list[Record]:
        """The records as they are asked: as many, in the same order, with their keys and groups."""
        ...
