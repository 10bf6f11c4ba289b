"""Direct preference optimization with "I don't know": a refusal is preferred to the answer that is to be forgotten.

L_f = mean over records of -(2 / beta) log sigmoid(beta (D_refusal - D_forget)), D = log p(answer) - log p_reference
(answer), summed over the answer's tokens. Bounded like NPO, and unlike it the model is told what to say instead. Each
record is paired with one refusal; the reference's scores of both are computed once.
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
    name="idk-dpo",
    title="Direct preference optimization with refusals",
    year=2024,
    arxiv="2401.06121",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
    notes="Refusals are of our own wording, one for each record for the whole run; open-unlearning draws one of TOFU's "
    "100 anew each time.",
)


@dataclass(frozen=True)
class IdkDPO(Objective):
    """L_f as above, mean over records; L_r = token mean NLL of retain.

    Args:
        beta: inverse temperature, above 0.

    Source: Rafailov et al., arXiv 2305.18290, equation 7, times 2 / beta; TOFU, arXiv 2401.06121; open-unlearning.
    """

    beta: float = 0.1

    preferred: ClassVar[str] = "refusal"  # the role whose answers are preferred to those of forget
    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("record", ("forget", "refusal")),
        "retain": Term("token", ("retain",)),
    }
    needs_reference: ClassVar[frozenset[str]] = frozenset({"forget", "refusal"})
    paired: ClassVar[Mapping[str, str]] = {"refusal": "forget"}

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:  # NaN is not
            raise InputError("beta", self.beta, "a finite number above 0")

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches and self.preferred in batches:
            gap = _log_ratio(self.preferred, batches, predict) - _log_ratio("forget", batches, predict)
            found["forget"] = -(2 / self.beta) * functional.logsigmoid(self.beta * gap).sum()
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


def _log_ratio(role: str, batches: Mapping[str, Batch], predict: Predict) -> Tensor:
    """D of each record: float32, (records,), summed over its scored tokens."""
    batch = batches[role]
    if batch.reference is None:
        raise InputError(f"batches['{role}'].reference", None, "the reference model's NLL of each record")
    return batch.reference - predict(batch).nll


def method(beta: float = 0.1, forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """DPO with refusals and open-unlearning's defaults.

    Args:
        beta: inverse temperature.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    return Method(IdkDPO(beta), weights={"forget": forget_weight, "retain": retain_weight}, recipe=Recipe())
