"""UNDIAL: self-distillation from the model as it was, with the answer's tokens made less likely.

L_f = mean over forget tokens of CE(softmax(z_reference - beta 1[v = y]), softmax(z)). A fixed distribution is aimed at,
which bounds the loss, and what is nearly as likely as the answer takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError

SYSTEM = System(
    name="undial",
    title="UNDIAL: self-distillation with the answer's logits lowered",
    year=2024,
    arxiv="2402.10052",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/distillation",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget",),
    notes="Scored tokens only. open-unlearning takes the mean over all positions, prompt and padding included, and at "
    "those without a label lowers token V - 100. No retain loss unless its weight is above 0, as in the paper.",
)


@dataclass(frozen=True)
class Undial(Objective):
    """L_f as above, in float32; the target is the reference's and has no gradient.

    Args:
        beta: what is taken off the answer's logit, at least 0; with 0 the model is distilled into itself.

    Source: Dong et al., arXiv 2402.10052; form of open-unlearning, at scored positions only.
    """

    beta: float = 10.0

    terms: ClassVar[Mapping[str, Term]] = {"forget": Term("token", ("forget",))}

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:  # NaN is not
            raise InputError("beta", self.beta, "a finite number of at least 0")

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        if "forget" not in batches:
            return {}
        batch = batches["forget"]
        # Logits and log-probabilities differ by a constant, which a softmax does not see.
        distribution, targets = predict(batch).distribution, batch.targets[:, None]
        lowered = distribution.scatter_add(1, targets, distribution.new_full(targets.shape, -self.beta))
        return {"forget": functional.log_softmax(lowered, dim=-1)}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            batch = batches["forget"]
            if batch.live is None:
                expected = "the reference model's lowered log-probabilities at scored positions"
                raise InputError("batches['forget'].live", None, expected)
            found["forget"] = -(batch.live.exp() * predict(batch).distribution).sum()
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


@dataclass(frozen=True)
class UndialAndRetain(Undial):
    """The same, and L_r = token mean NLL of retain."""

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "retain": Term("token", ("retain",)),
    }


def method(beta: float = 10.0, forget_weight: float = 1.0, retain_weight: float = 0.0) -> Method:
    """UNDIAL with open-unlearning's defaults.

    Args:
        beta: what is taken off the answer's logit.
        forget_weight: gamma.
        retain_weight: alpha; 0, the paper's, asks for no retain records.
    """
    weights = {"forget": forget_weight}
    objective: Undial = Undial(beta)
    if retain_weight != 0:
        objective, weights = UndialAndRetain(beta), {**weights, "retain": retain_weight}
    return Method(objective, weights=weights, recipe=Recipe(learning_rate=1e-4))
