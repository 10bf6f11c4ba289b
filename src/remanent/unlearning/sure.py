"""SURE: few rows and a large learning rate, so that what is unlearned lies further away than a quantizer's step.

Row i of a matrix, an output neuron, is ranked by the norm of the forget gradient at the start; a parameter of one
dimension by entry. The top tenth of all of them moves, at a learning rate well above the usual; the rest stays bit for
bit.
"""

from __future__ import annotations

from remanent.core.catalogue import System
from remanent.core.method import Method, Objective, Recipe
from remanent.core.saliency_mask import Masked
from remanent.errors import InputError, did_you_mean
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.kl_min import KLMin
from remanent.unlearning.npo import NPO, NPOAndKL

SYSTEM = System(
    name="sure",
    title="SURE: few salient rows at a large learning rate, against recovery by quantization",
    year=2024,
    arxiv="2410.16454",
    card="sure-quantization",
    family="unlearning",
    leaf="local/local-retraining",
    reproduction="tests/reproductions/test_confined.py",
    needs=("forget", "retain"),
    notes="The mask is made once, at the start, as in the paper; the released code makes it anew at each step, and "
    "counts the forget gradient twice. The paper's module level is the code's rows here.",
)
LOSSES = ("npo", "grad-ascent")
RETAIN = ("nll", "kl")


def method(
    threshold: float = 90.0,
    loss: str = "npo",
    retain: str = "nll",
    beta: float = 0.1,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> Method:
    """SURE with the paper's threshold, ten times the usual learning rate, and its code's batch and schedule.

    Args:
        threshold: percentile of the row norms from which rows move; at least 0 and below 100.
        loss: forget loss: "npo" or "grad-ascent".
        retain: retain loss: "nll", or "kl", the divergence from the model before.
        beta: NPO's inverse temperature.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    if not 0 <= threshold < 100:
        raise InputError("threshold", threshold, "a percentile of at least 0 and below 100")
    for field, value, choices in (("loss", loss, LOSSES), ("retain", retain, RETAIN)):
        if value not in choices:
            raise InputError(field, value, did_you_mean(value, choices))
    objective: Objective
    if loss == "npo":
        objective = NPO(beta) if retain == "nll" else NPOAndKL(beta)
    else:
        objective = GradDiff() if retain == "nll" else KLMin()
    return Masked(
        objective,
        weights={"forget": forget_weight, "retain": retain_weight},
        recipe=Recipe(learning_rate=1e-4, batch_size=8, schedule="constant", warmup=0.0),
        share=1 - threshold / 100,
        rows=True,
    )
