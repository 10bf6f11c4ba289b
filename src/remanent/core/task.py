"""The plain objective: mean answer NLL of one set. Teaching is this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict


@dataclass(frozen=True)
class Task(Objective):
    """L = mean over scored tokens of the NLL on "task"."""

    terms: ClassVar[Mapping[str, Term]] = {"task": Term("token", ("task",))}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {"task": -predict(batches["task"]).log_probs.sum()} if "task" in batches else {}


def teach() -> Method:
    """Plain fine-tuning."""
    return Method(Task(), recipe=Recipe(learning_rate=5e-5, epochs=12, batch_size=8))
