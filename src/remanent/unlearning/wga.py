"""Weighted gradient ascent: tokens count by how probable they still are.

L_f = -mean over forget tokens of p^beta NLL, p not differentiated. With beta = 0 it is gradient ascent; otherwise a
token that is forgotten is left alone, so that its gradient fades where that of ascent grows without end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError

SYSTEM = System(
    name="wga",
    title="Weighted gradient ascent: tokens count by how probable they still are",
    year=2025,
    arxiv="2502.19301",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget", "retain"),
)


@dataclass(frozen=True)
class WGA(Objective):
    """L_f as above; L_r = token mean NLL of retain.

    Args:
        beta: exponent of the token's probability, at least 0.

    Source: Wang et al., arXiv 2502.19301; open-unlearning's form.
    """

    beta: float = 1.0

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "retain": Term("token", ("retain",)),
    }

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:  # NaN is not
            raise InputError("beta", self.beta, "a finite number of at least 0")

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            log_probs = predict(batches["forget"]).log_probs
            found["forget"] = (log_probs.detach().exp() ** self.beta * log_probs).sum()
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


def method(beta: float = 1.0, forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """WGA with open-unlearning's defaults.

    Args:
        beta: exponent of the token's probability.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    return Method(WGA(beta), weights={"forget": forget_weight, "retain": retain_weight}, recipe=Recipe(epochs=5))
