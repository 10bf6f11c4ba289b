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
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError, did_you_mean

SYSTEM = System(
    name="grad-diff",
    title="Gradient difference: ascent on forget, descent on retain",
    year=2022,
    arxiv="2203.12817",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
    notes="`form` is open-unlearning's. DurableUn's GA is the same loss with other training settings; its GradDiff "
    "holds the retain loss at the reference's, here record by record rather than batch by batch.",
)
FORMS = ("open-unlearning", "durableun-ga", "durableun-grad-diff")
# What every baseline of DurableUn is trained with.
DURABLEUN = Recipe(learning_rate=5e-5, steps=300, batch_size=4, schedule="cosine", warmup=0.0)


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


@dataclass(frozen=True)
class GradDiffAtReference(GradDiff):
    """L_f as above; L_r = sum over retain records of |NLL - NLL_reference|, over the number of their tokens.

    The absolute value is of each record, so that how a batch is split changes nothing; DurableUn's is of the batch's
    mean, which is never larger. Where the model is its own reference the retain term has no gradient.

    Source: DurableUn, arXiv 2605.02196, baseline GradDiff.
    """

    needs_reference: ClassVar[frozenset[str]] = frozenset({"retain"})

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found = super().losses({role: batch for role, batch in batches.items() if role == "forget"}, predict)
        if "retain" in batches:
            batch = batches["retain"]
            if batch.reference is None:
                raise InputError("batches['retain'].reference", None, "the reference model's NLL of each record")
            found["retain"] = (predict(batch).nll - batch.reference).abs().sum()
        return found


def method(form: str = "open-unlearning", forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """Gradient difference with open-unlearning's defaults, or in one of DurableUn's two forms with its settings.

    Args:
        form: "open-unlearning"; "durableun-ga", the same loss with DurableUn's settings, which calls it GA; or
            "durableun-grad-diff", whose retain loss is the distance to the reference's.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    if form not in FORMS:
        raise InputError("form", form, did_you_mean(form, FORMS))
    recipe = Recipe() if form == "open-unlearning" else DURABLEUN
    objective = GradDiffAtReference() if form == "durableun-grad-diff" else GradDiff()
    return Method(objective, weights={"forget": forget_weight, "retain": retain_weight}, recipe=recipe)
