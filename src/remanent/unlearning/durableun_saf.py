"""DurableUn-SAF as published: the forget loss also at the rounded weights, the retain loss at full precision only.

L = -NLL_f(w) - alpha(t) NLL_f(Q(w)) + lambda NLL_r(w), straight-through at Q, alpha warmed up, lambda = max(1,
alpha + 1). Nothing holds the rounded model's retained knowledge, which is why the published certificate passes a
model that lost both; `quantize_retain` takes the retain loss at the rounded weights too, and is ours.
"""

from __future__ import annotations

import math

from remanent.core.catalogue import System
from remanent.core.displacement import Here, Rounding
from remanent.core.method import At, Method
from remanent.core.schedule import Ramp
from remanent.errors import InputError
from remanent.unlearning.grad_diff import DURABLEUN, GradDiff

SYSTEM = System(
    name="durableun-saf",
    title="DurableUn-SAF: quantization-aware unlearning, as published",
    year=2026,
    arxiv="2605.02196",
    card="durableun",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_durableun.py",
    needs=("forget", "retain"),
    notes="The forward is a true straight-through one: the released code swaps weights back before the backward pass, "
    "which is wrong under gradient checkpointing. The warm-up is a share of the run (the paper's 100 of 300 steps).",
)


def method(
    alpha: float = 3.0, rounding: str = "int4-row", warmup: float = 1 / 3, quantize_retain: bool = False
) -> Method:
    """DurableUn-SAF with the settings of its certified model.

    Args:
        alpha: largest weight of the forget loss at the rounded weights; the paper's "practical" setting is 1.
        rounding: the format.
        warmup: share of the run before alpha rises from 0.
        quantize_retain: take the retain loss at the rounded weights too; not in the paper.
    """
    for name, value, right, expected in (
        ("alpha", alpha, 0 <= alpha < math.inf, "a finite number of at least 0"),
        ("warmup", warmup, 0 <= warmup < 1, "a share of the run, at least 0 and below 1"),
    ):
        if not right:
            raise InputError(name, value, expected)
    terms = ("forget", "retain") if quantize_retain else ("forget",)
    return Method(
        GradDiff(),
        points=[Here(), At(Rounding(rounding), terms=terms, weight=Ramp(0.0, alpha, after=warmup))],
        weights={"retain": max(1.0, alpha + 1)},
        recipe=DURABLEUN,
    )
