"""PDU: flatten what the model predicts on the forget set, as long as the retain loss stays under a limit.

minimize L_f = mean over forget tokens of (max_v z_v - mean_v z_v)^2 subject to L_r <= limit. The dual variable alpha is
the weight of the retain loss: it rises while the limit is passed, and falls to 0 while there is room.

    L = L_f + alpha (L_r - limit),    alpha <- max(0, alpha + dual_step (L_r - limit)) after each update
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.episode import Episode
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError

SYSTEM = System(
    name="pdu",
    title="PDU: flat predictions on forget, under a limit on the retain loss",
    year=2025,
    arxiv="2506.05314",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget", "retain"),
    notes="The forget loss is of the positions that predict the answer; open-unlearning's is of those that the answer "
    "stands at, one further. The dual variable moves once per update, not once per accumulated batch.",
)


@dataclass
class Dual:
    """The dual variable, at least 0: it changes from update to update and is part of a run's state."""

    value: float


@dataclass(frozen=True)
class PDU(Objective):
    """Token means: "forget" = L_f, "retain" = NLL, to be seen at weight 0, "constraint" = alpha (NLL - limit).

    Args:
        limit: epsilon, what the retain loss may be, in nats per token: somewhat above the model's own.
        dual: alpha.

    Source: Entesari et al., arXiv 2506.05314; open-unlearning's form, but for the positions of the forget loss.
    """

    limit: float
    dual: Dual

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "retain": Term("token", ("retain",)),
        "constraint": Term("token", ("retain",)),
    }

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), ("dual", self.dual.value)):
            if not 0 <= value < math.inf:  # NaN is not
                raise InputError(name, value, "a finite number of at least 0")

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            # A difference of log-probabilities is one of logits.
            distribution = predict(batches["forget"]).distribution
            found["forget"] = (distribution.amax(dim=-1) - distribution.mean(dim=-1)).square().sum()
        if "retain" in batches:
            nll = -predict(batches["retain"]).log_probs.sum()
            found["retain"] = nll
            found["constraint"] = self.dual.value * (nll - self.limit * batches["retain"].units("token"))
        return found


@dataclass(frozen=True)
class PrimalDual(Method):
    """PDU's composition, whose dual variable follows the retain loss.

    Args:
        dual_step: how far the dual variable moves per nat that the limit is passed by, at least 0.
        dual_warmup: share of the run during which it stays where it starts.
    """

    dual_step: float = 5.0
    dual_warmup: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dual_step < math.inf:
            raise InputError("dual_step", self.dual_step, "a finite number of at least 0")
        if not 0 <= self.dual_warmup <= 1:
            raise InputError("dual_warmup", self.dual_warmup, "a share of the run, from 0 to 1")

    @property
    def constrained(self) -> PDU:
        """The objective, which holds the dual variable."""
        assert isinstance(self.objective, PDU)
        return self.objective

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method with a dual variable of its own, so that no episode starts where another ended."""
        return replace(self, objective=replace(self.constrained, dual=replace(self.constrained.dual)))

    def observe(self, losses: Mapping[str, float], step: int, steps: int) -> None:
        if step <= self.dual_warmup * steps:
            return
        retained = [value for name, value in losses.items() if name.startswith("retain@")]
        if retained:
            # Where the losses are taken at several points, the limit holds at all of them.
            passed = max(retained) - self.constrained.limit
            self.constrained.dual.value = max(0.0, self.constrained.dual.value + self.dual_step * passed)

    def state_dict(self) -> dict[str, Any]:
        return {"dual": self.constrained.dual.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.constrained.dual.value = state["dual"]


def method(
    limit: float = 0.3,
    dual: float = 100.0,
    dual_step: float = 5.0,
    dual_warmup: float = 0.5,
    forget_weight: float = 1.0,
) -> Method:
    """PDU with the settings of its authors for TOFU.

    Args:
        limit: epsilon, in nats per token: somewhat above the retain loss of the model that is to forget.
        dual: alpha at the start.
        dual_step: how far alpha moves per nat that the limit is passed by.
        dual_warmup: share of the run during which alpha stays where it starts.
        forget_weight: gamma.
    """
    return PrimalDual(
        PDU(limit, Dual(dual)),
        weights={"forget": forget_weight, "retain": 0.0},
        recipe=Recipe(),
        dual_step=dual_step,
        dual_warmup=dual_warmup,
    )
