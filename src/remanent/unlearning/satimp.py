"""SatImp: gradient ascent whose tokens count by how far they are from both ends, known by heart and forgotten.

L_f = -mean over forget tokens of p^beta1 (1 - p)^beta2 NLL, p not differentiated. The first factor leaves alone what is
forgotten already (saturation), the second what the model is sure of (importance). With beta2 = 0 it is WGA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError

SYSTEM = System(
    name="satimp",
    title="SatImp: ascent on tokens that are neither known by heart nor forgotten",
    year=2025,
    arxiv="2505.11953",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget", "retain"),
    notes="Weights of the losses as in the paper and in open-unlearning's class, 1 and 0.1; its configuration has 0.1 "
    "and 1.",
)


@dataclass(frozen=True)
class SatImp(Objective):
    """L_f as above; L_r = token mean NLL of retain.

    Args:
        beta1: exponent of the token's probability, at least 0.
        beta2: exponent of what is missing from 1, at least 0; above 0 a token of probability 1 has no gradient.

    Source: Yang et al., arXiv 2505.11953; open-unlearning's form.
    """

    beta1: float = 5.0
    beta2: float = 1.0

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "retain": Term("token", ("retain",)),
    }

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < math.inf:  # NaN is not
                raise InputError(name, getattr(self, name), "a finite number of at least 0")

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            log_probs = predict(batches["forget"]).log_probs
            known = log_probs.detach()
            # 1 - p from the logarithm: near 1 the difference of the two would be rounding error.
            weights = known.exp() ** self.beta1 * (-torch.expm1(known)) ** self.beta2
            found["forget"] = (weights * log_probs).sum()
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


def method(beta1: float = 5.0, beta2: float = 1.0, forget_weight: float = 1.0, retain_weight: float = 0.1) -> Method:
    """SatImp with the defaults of its paper.

    Args:
        beta1: exponent of the token's probability.
        beta2: exponent of what is missing from 1.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    weights = {"forget": forget_weight, "retain": retain_weight}
    return Method(SatImp(beta1, beta2), weights=weights, recipe=Recipe(epochs=5))
