"""KL minimization: ascent on the forget set, while the retain set's distributions stay the reference's.

L = -forget_weight * NLL(forget) + retain_weight * KL(p_reference || p) on retain, both means over scored tokens. Where
gradient difference trains on the retained answers, this asks for nothing but that the model says there what it said
before. Its forget loss is unbounded: stop it by rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.divergence import kl_divergence
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError

SYSTEM = System(
    name="kl-min",
    title="KL minimization: ascent on forget, the reference's distributions on retain",
    year=2024,
    arxiv="2401.06121",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
    notes="The divergence is a mean over scored positions; open-unlearning's is over all, prompt and padding included.",
)


@dataclass(frozen=True)
class KLMin(Objective):
    """L_f = -(token mean NLL of forget); L_r = token mean of KL(p_reference || p) on retain, in float32.

    Source: TOFU, arXiv 2401.06121, "KL minimization"; form of open-unlearning, at scored positions only.
    """

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "retain": Term("token", ("retain",)),
    }

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {"retain": predict(batches["retain"]).distribution} if "retain" in batches else {}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            found["forget"] = predict(batches["forget"]).log_probs.sum()
        if "retain" in batches:
            found["retain"] = kl_to_reference(batches["retain"], predict, "retain")
        return found


def kl_to_reference(batch: Batch, predict: Predict, role: str) -> Tensor:
    """Sum over a batch's scored tokens of KL(p_reference || p). Raises InputError where the reference was not asked."""
    if batch.live is None:
        raise InputError(f"batches['{role}'].live", None, "the reference model's log-probabilities at scored positions")
    return kl_divergence(batch.live, predict(batch).distribution).sum()


def method(forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """KL minimization with open-unlearning's defaults.

    Args:
        forget_weight: gamma.
        retain_weight: alpha.
    """
    return Method(KLMin(), weights={"forget": forget_weight, "retain": retain_weight}, recipe=Recipe())
