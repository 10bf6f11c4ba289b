"""SalUn on a language model: only the weights that matter most for the forget set may move.

Saliency is |sum over the forget set of the gradient of its NLL| at the start, in eval mode. The share k of all weights
that train, ranked together, moves; the others stay bit for bit, whatever the retain loss, the moments and the weight
decay would do with them. Under that mask any forget loss is trained with a retain loss.
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
from remanent.core.saliency_mask import Masked
from remanent.errors import InputError, did_you_mean
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.npo import NPO

SYSTEM = System(
    name="salun",
    title="SalUn: unlearn only the weights that matter most for the forget set",
    year=2023,
    arxiv="2310.12508",
    card="salun",
    family="unlearning",
    leaf="local/local-retraining",
    reproduction="tests/reproductions/test_confined.py",
    needs=("forget", "retain"),
    notes="The paper unlearns classifiers and diffusion models; this is its form for language models. What DurableUn "
    "calls SalUn is saliency-masked gradient ascent: its mask is of sums of absolute batch gradients, and holds the "
    "forget gradient alone. Random labels are trained in expectation.",
)
LOSSES = ("npo", "grad-ascent", "random-labels")


@dataclass(frozen=True)
class RandomLabels(Objective):
    """L_f = mean over forget tokens of the NLL of labels drawn uniformly from the vocabulary; L_r = token mean NLL.

    In expectation, which is -(mean over the vocabulary of log p), in float32: what labels drawn afresh at each update
    come to, without their noise. Bounded from below by log(vocabulary), where the model says nothing.

    Source: SalUn, arXiv 2310.12508, random labelling.
    """

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget",)),
        "retain": Term("token", ("retain",)),
    }

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            found["forget"] = -predict(batches["forget"]).distribution.mean(dim=-1).sum()
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found


def method(
    share: float = 0.5,
    loss: str = "npo",
    beta: float = 0.1,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> Method:
    """SalUn with its share, and open-unlearning's training defaults.

    Args:
        share: k, of the weights that may move; 1 moves all.
        loss: forget loss: "npo", "grad-ascent" or "random-labels".
        beta: NPO's inverse temperature.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    if loss not in LOSSES:
        raise InputError("loss", loss, did_you_mean(loss, LOSSES))
    objective = {"npo": NPO(beta), "grad-ascent": GradDiff(), "random-labels": RandomLabels()}[loss]
    weights = {"forget": forget_weight, "retain": retain_weight}
    return Masked(objective, weights=weights, recipe=Recipe(), share=share)
