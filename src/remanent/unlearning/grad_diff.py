"""Gradient difference: ascent on the forget set, descent on the retain set.

L = -forget_weight * NLL(forget) + retain_weight * NLL(retain), both means over tokens. Its forget loss is unbounded:
stop it by rule, or use NPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.method import Method, Objective, Predict, Recipe, Term

SYSTEM = System(
    name="grad-diff",
    title="Gradient difference: ascent on forget, descent on retain",
    year=2022,
    arxiv="2203.12817",
    card="llm-unlearning-baselines",
    family="unlearning",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
)


@dataclass(frozen=True)
class GradDiff(Objective):
    """L_f = -(token mean NLL of forget), L_r = token mean NLL of retain. Source: arXiv 2203.12817; open-unlearning."""

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "retain": Term("token", ("retain",)),
    }

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        signs = {"forget": 1.0, "retain": -1.0}
        return {role: signs[role] * predict(batch).log_probs.sum() for role, batch in batches.items()}


def method(forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """Gradient difference with open-unlearning's defaults.

    Args:
        forget_weight: gamma.
        retain_weight: alpha.
    """
    return Method(GradDiff(), weights={"forget": forget_weight, "retain": retain_weight}, recipe=Recipe())
