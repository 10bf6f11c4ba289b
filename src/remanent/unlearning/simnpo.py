"""SimNPO: negative preference optimization without a reference, on length-normalized likelihoods.

L_f = mean over records of -(2 / beta) log sigmoid(beta (NLL / n - delta)), n the answer's number of tokens.
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
    name="simnpo",
    title="SimNPO: reference-free negative preference optimization",
    year=2024,
    arxiv="2410.07163",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
)


@dataclass(frozen=True)
class SimNPO(Objective):
    """L_f as above, mean over records; L_r = token mean NLL of retain.

    Args:
        beta: inverse temperature, above 0.
        delta: margin on the mean NLL, in nats per token; the paper's gamma is beta * delta.

    Source: arXiv 2410.07163, equation 4; open-unlearning's form.
    """

    beta: float = 4.5
    delta: float = 0.0

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("record", ("forget",)),
        "retain": Term("token", ("retain",)),
    }

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:  # NaN is not
            raise InputError("beta", self.beta, "a finite number above 0")

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            scores = predict(batches["forget"])
            mean = scores.nll / scores.counts.clamp(min=1)
            found["forget"] = -(2 / self.beta) * functional.logsigmoid(self.beta * (mean - self.delta)).sum()
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


def method(beta: float = 4.5, delta: float = 0.0, forget_weight: float = 0.125, retain_weight: float = 1.0) -> Method:
    """SimNPO with open-unlearning's defaults.

    Args:
        beta: inverse temperature.
        delta: margin, in nats per token.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    return Method(SimNPO(beta, delta), weights={"forget": forget_weight, "retain": retain_weight}, recipe=Recipe())
