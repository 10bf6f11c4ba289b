"""SCRUB: a student that disobeys its teacher on the forget set and obeys it on the retain set, in turns.

Max steps ascend KL(p_reference || p) on forget, min steps descend alpha KL(p_reference || p) + gamma NLL on retain.
Turns alternate from update to update, and max steps end before the run does, so that what they broke is mended. The
first step is a min step: where the model is still its own teacher, the divergence has no gradient to ascend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.catalogue import System
from remanent.core.displacement import Here
from remanent.core.method import At, Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.core.schedule import Alternate
from remanent.errors import InputError, did_you_mean
from remanent.unlearning.kl_min import kl_to_reference

SYSTEM = System(
    name="scrub",
    title="SCRUB: turns of disobeying and obeying the model as it was",
    year=2023,
    arxiv="2302.09880",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/distillation",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
    notes="Turns of single updates rather than epochs, min first; temperature 1 rather than the code's 4; AdamW.",
)

FORGET_LOSSES = ("kl", "nll")


@dataclass(frozen=True)
class Scrub(Objective):
    """Means over scored tokens, in float32: "forget" = -KL(p_reference || p), "obey" = KL on retain, "retain" = NLL.

    Args:
        forget_loss: "kl", the paper's; "nll" ascends the NLL instead, as DurableUn's baseline does.

    Source: Kurmanji et al., arXiv 2302.09880, equation 3.
    """

    forget_loss: str = "kl"

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "obey": Term("token", ("retain",)),
        "retain": Term("token", ("retain",)),
    }

    def __post_init__(self) -> None:
        if self.forget_loss not in FORGET_LOSSES:
            raise InputError("forget_loss", self.forget_loss, did_you_mean(self.forget_loss, FORGET_LOSSES))

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        asked = ("forget", "retain") if self.forget_loss == "kl" else ("retain",)
        return {role: predict(batches[role]).distribution for role in asked if role in batches}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            batch = batches["forget"]
            ascends_kl = self.forget_loss == "kl"
            found["forget"] = (
                -kl_to_reference(batch, predict, "forget") if ascends_kl else predict(batch).log_probs.sum()
            )
        if "retain" in batches:
            found["obey"] = kl_to_reference(batches["retain"], predict, "retain")
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


def method(
    forget_loss: str = "kl",
    forget_weight: float = 1.0,
    obey_weight: float = 0.5,
    retain_weight: float = 1.0,
    max_share: float = 0.6,
) -> Method:
    """SCRUB with the weights of its released code for small sets.

    Args:
        forget_loss: "kl" or "nll"; with "nll", forget_weight 0.5, obey_weight 1, retain_weight 0 and max_share 1 it is
            DurableUn's baseline.
        forget_weight: of the max steps.
        obey_weight: alpha, of the divergence on retain.
        retain_weight: gamma, of the NLL on retain.
        max_share: share of the run during which max steps take every second turn; then all are min steps.
    """
    min_steps, max_steps = Alternate(0, until=max_share, after=1.0), Alternate(1, until=max_share)
    return Method(
        Scrub(forget_loss),
        points=[At(Here(), ("obey", "retain"), min_steps), At(Here(), ("forget",), max_steps)],
        weights={"forget": forget_weight, "obey": obey_weight, "retain": retain_weight},
        recipe=Recipe(),
    )
