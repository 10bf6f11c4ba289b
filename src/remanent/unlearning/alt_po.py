"""Preference for another answer: DPO like idk-dpo, with a false answer of the same form in the refusal's place.

The model is told something else instead of nothing, so that it goes on answering in its own way. Each record is paired
with one of its own wrong answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from remanent.core.catalogue import System
from remanent.core.method import Method, Recipe, Term
from remanent.unlearning.idk_dpo import IdkDPO

SYSTEM = System(
    name="alt-po",
    title="Preference optimization with alternative answers",
    year=2024,
    arxiv="2409.13474",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
    notes="The alternative is one of the record's own wrong answers; the paper has the model itself write several.",
)


@dataclass(frozen=True)
class AltPO(IdkDPO):
    """L_f = mean over records of -(2 / beta) log sigmoid(beta (D_alternative - D_forget)); L_r as IdkDPO's.

    Source: Mekala et al., arXiv 2409.13474; form of open-unlearning.
    """

    preferred: ClassVar[str] = "alternative"
    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("record", ("forget", "alternative")),
        "retain": Term("token", ("retain",)),
    }
    needs_reference: ClassVar[frozenset[str]] = frozenset({"forget", "alternative"})
    paired: ClassVar[Mapping[str, str]] = {"alternative": "forget"}


def method(beta: float = 0.1, forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """DPO with alternative answers and open-unlearning's defaults.

    Args:
        beta: inverse temperature.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    return Method(AltPO(beta), weights={"forget": forget_weight, "retain": retain_weight}, recipe=Recipe())
