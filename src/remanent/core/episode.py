"""Time: a stream of episodes, each of which teaches or erases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from remanent.core.batch import Encoded
from remanent.errors import InputError


@dataclass(frozen=True)
class Episode:
    """One thing that happens to a model: a task that it is taught, a deletion request that it obeys.

    Args:
        name: unique within its stream; names the episode's files.
        kind: "teach" or "erase".
        data: role -> records: "forget", "retain", "task", "replay" ...
    """

    name: str
    kind: Literal["teach", "erase"]
    data: Mapping[str, Sequence[Encoded]]

    def __post_init__(self) -> None:
        if not self.name or any(not (letter.isalnum() or letter in "._-") for letter in self.name):
            raise InputError("episode.name", self.name, "letters, digits, '.', '_' and '-', since it names files")
        for role, records in self.data.items():
            if not records:
                raise InputError(f"episode.data['{role}']", "no records", "at least one record")
