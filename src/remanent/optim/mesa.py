"""MESA: the model follows a teacher that is the average of its own past weights, as a cheap stand-in for sharpness.

L = task loss + weight * tau^2 * mean KL(softmax(y / tau) || softmax(z / tau)); z the model's logits, y those of the
exponential moving average of its weights, without a gradient. A loss term, since the step is the base optimizer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from remanent.core.catalogue import System
from remanent.core.divergence import mean_divergence
from remanent.core.model_inputs import counting
from remanent.core.weight_average import WeightAverage
from remanent.errors import InputError

SYSTEM = System(
    name="mesa",
    title="Memory-efficient sharpness-aware training: distillation from the model's own average",
    year=2022,
    arxiv="2205.14083",
    card="saf",
    family="optim",
    reproduction="tests/reproductions/test_saf.py",
    notes="tau^2 as in the official code, not in the paper's equation 12; the teacher is asked before it is updated.",
)


class MESA:
    """The loss term of MESA: `loss = task_loss + mesa(logits, *inputs)`, and `mesa.update()` after each update.

    Costs a forward pass of the teacher, in eval mode and without a graph, and a copy of what trains. With
    `temperature=1` and `weight=0.1` it is the baseline that TRAM names MESA.

    Args:
        model: the model, before training.
        decay: of the average, per update. 1 - 1 / (4 * updates per epoch) looks back about as far as SAF does; the
            official code's 0.9998 is that for 1250 updates per epoch.
        weight: lambda, at least 0; 0 adds nothing and passes nothing through the teacher.
        temperature: tau, above 0.
        start: updates before the term is added.

    Raises InputError for a value out of range.

    Source: arXiv 2205.14083, equation 12; official code, MESA_train.py.
    """

    def __init__(
        self, model: nn.Module, decay: float, *, weight: float = 0.8, temperature: float = 5.0, start: int = 0
    ) -> None:
        check_term(weight, temperature)
        if start < 0:
            raise InputError("start", start, "a number of updates, at least 0")
        self.weight, self.temperature, self.start = weight, temperature, start
        self.average, self.updates = WeightAverage(model, decay), 0

    def __call__(self, logits: Tensor, *inputs: Any, **named: Any) -> Tensor:
        """The weighted term, a mean over records, or over the positions of `attention_mask` where each has logits.

        Args:
            logits: the model's for these inputs, (..., classes), with their graph.
            inputs: what the model was given, `named` too.
        """
        if self.weight == 0 or self.updates < self.start:
            return logits.new_zeros(())
        teacher = self.average.logits(*inputs, **named)
        mask = counting(logits, named)
        return self.weight * mean_divergence(teacher, logits, temperature=self.temperature, mask=mask)

    def update(self) -> None:
        """Take the weights of now up into the average; after each of the optimizer's updates."""
        self.average.update()
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of updates."""
        return {"average": self.average.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.average.load_state_dict(state["average"])
        self.updates = state["updates"]


def check_term(weight: float, temperature: float = 1.0) -> None:
    """Raise InputError for a weight below 0 or a temperature not above 0."""
    if not 0 <= weight < float("inf"):
        raise InputError("weight", weight, "a finite number of at least 0")
    if not 0 < temperature < float("inf"):
        raise InputError("temperature", temperature, "a finite number above 0")
