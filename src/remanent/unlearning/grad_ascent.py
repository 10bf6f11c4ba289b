"""Gradient ascent on the forget set, and nothing else.

L = -mean token NLL on forget. Unbounded, and without a retain term: it destroys the model if it runs on. The oldest
baseline; stop it by rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict

SYSTEM = System(
    name="grad-ascent",
    title="Gradient ascent on the forget set",
    year=2022,
    arxiv="2210.01504",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget",),
)


@dataclass(frozen=True)
class GradAscent(Objective):
    """L_f = -(mean over forget tokens of NLL). Source: Jang et al., arXiv 2210.01504; form of open-unlearning."""

    terms: ClassVar[Mapping[str, Term]] = {"forget": Term("token", ("forget",))}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {"forget": predict(batches["forget"]).log_probs.sum()} if "forget" in batches else {}


def method() -> Method:
    """Gradient ascent with open-unlearning's training defaults."""
    return Method(GradAscent(), recipe=Recipe())
