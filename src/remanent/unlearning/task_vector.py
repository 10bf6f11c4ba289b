"""Task vector: learn the forget set by heart, then go as far in the other direction.

w = w0 - scale * (w_ft - w0), where w_ft is the model trained further on the forget set alone. The model is made at the
end, from the weights that moved; until then it knows the records better than before, so that no stopping rule may look
at it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.displacement import Interpolation
from remanent.core.episode import Episode
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.core.selection import Selection
from remanent.core.weights import Weights
from remanent.errors import InputError

SYSTEM = System(
    name="task-vector",
    title="Task vector: overfit on the forget set, and negate the change",
    year=2022,
    arxiv="2212.04089",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="local/task-vectors",
    reproduction="tests/reproductions/test_confined.py",
    needs=("forget",),
    notes="On a LoRA only the second factor trains, so that the change of the weights is linear in what moves and its "
    "negation exact. Training starts from the model, so that the vector is never that of a fresh adapter, which is 0.",
)


@dataclass(frozen=True)
class Fit(Objective):
    """L = mean over forget tokens of the NLL: descent."""

    terms: ClassVar[Mapping[str, Term]] = {"forget": Term("token", ("forget",))}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {"forget": -predict(batches["forget"]).log_probs.sum()} if "forget" in batches else {}


@dataclass(frozen=True)
class Negated(Method):
    """A method whose change is negated when its episode is over.

    Args:
        scale: how far to go in the other direction, in lengths of the change.
        start: the weights that train, as they were; set by `begin`. Costs a copy of them.
    """

    scale: float = 1.0
    start: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < math.inf:  # NaN is not
            raise InputError("scale", self.scale, "a finite number above 0")

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method, which knows where it started."""
        weights = self.select.of(Weights.of(model).trainable())
        return replace(self, start={name: weight.detach().clone() for name, weight in weights.items()})

    def end(self, model: nn.Module, episode: Episode) -> None:
        """Make the model: from w_ft through w0 and on. In float32, written in the weights' dtype."""
        Interpolation(self.start, 1 + self.scale).apply(Weights.of(model).only(self.start))


def method(scale: float = 1.0) -> Method:
    """The negated task vector, trained with open-unlearning's defaults.

    Args:
        scale: how far to go, in lengths of the change.
    """
    return Negated(
        Fit(),
        select=Selection(exclude=("*.lora_A.*", "*.lora_embedding_A.*")),
        recipe=Recipe(),
        judged_by_rule=False,
        scale=scale,
    )
