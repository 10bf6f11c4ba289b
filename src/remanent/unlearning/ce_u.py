"""CE-U: cross-entropy towards the model's own distribution without the answer's token.

L_f = mean over forget tokens of CE(softmax(sg[z] with z_y = -infinity), softmax(z)). The loss is bounded from below and
its gradient fades as the answer does: at p_y = 0 the target is the model's own distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from remanent.core.batch import IGNORED, Batch
from remanent.core.catalogue import System
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError

SYSTEM = System(
    name="ce-u",
    title="CE-U: cross-entropy unlearning",
    year=2025,
    arxiv="2503.01224",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget",),
    notes="No retain loss, as in the paper.",
)


@dataclass(frozen=True)
class CEU(Objective):
    """L_f as above, in float32; the target is not differentiated.

    Args:
        skip: an answer's first tokens that are left alone, at least 0: where the model decides how to begin, there is
            little to forget.

    Source: Yang, arXiv 2503.01224; open-unlearning's form.
    """

    skip: int = 1

    terms: ClassVar[Mapping[str, Term]] = {"forget": Term("token", ("forget",))}

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise InputError("skip", self.skip, "at least 0 tokens")

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        batch = batches["forget"]
        scores = predict(batch)
        chosen = _place(scores.rows) >= self.skip
        distribution, targets = scores.distribution[chosen], batch.targets[chosen][:, None]
        # Of log-probabilities as of logits: a softmax does not see the constant between them.
        aim = functional.softmax(distribution.detach().scatter(1, targets, -math.inf), dim=-1)
        # The answer's own entry is aimed at with 0; written out, since 0 times minus infinity is no number.
        return {"forget": -(aim * distribution.scatter(1, targets, 0.0)).sum()}

    def counted(self, term: str, batches: Mapping[str, Batch]) -> int:
        scored = (batches["forget"].labels[:, 1:] != IGNORED).sum(dim=1)
        return int((scored - self.skip).clamp(min=0).sum())


def _place(rows: Tensor) -> Tensor:
    """The place of each scored token within its record, from 0: int64, (tokens,)."""
    counts = torch.bincount(rows, minlength=1)
    return torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]


def method(skip: int = 1) -> Method:
    """CE-U with open-unlearning's defaults.

    Args:
        skip: an answer's first tokens that are left alone.
    """
    return Method(CEU(skip), recipe=Recipe())
