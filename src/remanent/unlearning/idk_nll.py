"""Refusals alone: the model is taught to say that it does not know, for each question that is to be forgotten.

L_f = mean over refusal tokens of the NLL, descent only: nothing pushes the old answer away but what takes its place.
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
    name="idk-nll",
    title="Fine-tuning on refusals",
    year=2024,
    arxiv="2401.06121",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget", "retain"),
    notes="Refusals are of our own wording, one for each record for the whole run; TOFU draws one of its 100 anew each "
    "time. TOFU's one mean over the tokens of both sets is `together`.",
)


@dataclass(frozen=True)
class IdkNLL(Objective):
    """L_f = token mean NLL of the refusals; L_r = token mean NLL of retain.

    Args:
        together: both are divided by the tokens of both, so that their sum is one mean over all tokens.

    Source: TOFU, arXiv 2401.06121, "preference optimization" with the loss of its released code.
    """

    together: bool = False

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("refusal",)),
        "retain": Term("token", ("retain",)),
    }

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        names = {"refusal": "forget", "retain": "retain"}
        return {names[role]: -predict(batch).log_probs.sum() for role, batch in batches.items()}

    def counted(self, term: str, batches: Mapping[str, Batch]) -> int:
        if not self.together:
            return super().counted(term, batches)
        return sum(batches[role].units("token") for role in ("refusal", "retain"))


def method(together: bool = False, forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """Fine-tuning on refusals and on retain, with open-unlearning's training defaults.

    Args:
        together: one mean over the tokens of both sets, as in TOFU's code, rather than the sum of two.
        forget_weight: gamma, of the refusals.
        retain_weight: alpha.
    """
    weights = {"forget": forget_weight, "retain": retain_weight}
    return Method(IdkNLL(together), weights=weights, recipe=Recipe())
