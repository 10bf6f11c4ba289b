"""Negative preference optimization: a bounded forget loss that fades as a record is forgotten.

L_f = mean over records of -(2 / beta) log sigmoid(-beta D), D = log p(answer) - log p_reference(answer), summed over
the answer's tokens. Its gradient is gradient ascent's times 2 sigmoid(beta D), which goes to 0 as D falls. The
reference is the model before unlearning, whose scores are computed once.
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
from remanent.errors import InputError, did_you_mean
from remanent.unlearning.kl_min import kl_to_reference

SYSTEM = System(
    name="npo",
    title="Negative preference optimization",
    year=2024,
    arxiv="2404.05868",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
)
RETAIN_LOSSES = ("nll", "kl")


@dataclass(frozen=True)
class NPO(Objective):
    """L_f as above, mean over records; L_r = token mean NLL of retain.

    Args:
        beta: inverse temperature, above 0; towards 0 the loss becomes gradient ascent.

    Source: arXiv 2404.05868, equation 3; open-unlearning's form.
    """

    beta: float = 0.1

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("record", ("forget",)),
        "retain": Term("token", ("retain",)),
    }
    needs_reference: ClassVar[frozenset[str]] = frozenset({"forget"})

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:  # NaN is not
            raise InputError("beta", self.beta, "a finite number above 0")

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            batch = batches["forget"]
            if batch.reference is None:
                raise InputError("batches['forget'].reference", None, "the reference model's NLL of each record")
            log_ratio = batch.reference - predict(batch).nll
            found["forget"] = -(2 / self.beta) * functional.logsigmoid(-self.beta * log_ratio).sum()
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


@dataclass(frozen=True)
class NPOAndKL(NPO):
    """L_f as above; L_r = token mean of KL(p_reference || p) on retain, as in kl-min."""

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {"retain": predict(batches["retain"]).distribution} if "retain" in batches else {}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found = super().losses({role: batch for role, batch in batches.items() if role == "forget"}, predict)
        if "retain" in batches:
            found["retain"] = kl_to_reference(batches["retain"], predict, "retain")
        return found


def method(
    beta: float = 0.1, retain_loss: str = "nll", forget_weight: float = 1.0, retain_weight: float = 1.0
) -> Method:
    """NPO with open-unlearning's defaults.

    Args:
        beta: inverse temperature.
        retain_loss: "nll", or "kl": the divergence from the reference.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    if retain_loss not in RETAIN_LOSSES:
        raise InputError("retain_loss", retain_loss, did_you_mean(retain_loss, RETAIN_LOSSES))
    objective = NPO(beta) if retain_loss == "nll" else NPOAndKL(beta)
    return Method(objective, weights={"forget": forget_weight, "retain": retain_weight}, recipe=Recipe())
