"""SalUn on a language model: only the weights that matter most for the forget set may move.

Saliency is |sum over the forget set of the gradient of its NLL| at the start, in eval mode. The share k of all weights
that train, ranked together, moves; the others stay bit for bit, whatever the retain loss, the moments and the weight
decay would do with them. Under that mask any forget loss is trained with a retain loss.

What DurableUn calls SalUn is another mask, of sums of absolute batch gradients, and holds the forget gradient alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from remanent.core.batch import Batch, Encoded, collate
from remanent.core.catalogue import System
from remanent.core.combine import MaskedTerm
from remanent.core.importance import importance, token_nll
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.core.saliency_mask import Masked
from remanent.core.sampling import seed_of
from remanent.core.weights import Weights
from remanent.errors import InputError, did_you_mean
from remanent.unlearning.grad_diff import DURABLEUN, GradDiff
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
    "calls SalUn, saliency-masked gradient ascent, is `form=durableun`; its released mask chooses every entry of a "
    "fresh LoRA, ours none without a gradient. Random labels are trained in expectation.",
)
FORMS = ("salun", "durableun")
LOSSES = ("npo", "grad-ascent", "random-labels")
_AUTO = {"salun": "npo", "durableun": "grad-ascent"}


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


@dataclass(frozen=True)
class MaskedForget(Masked):
    """A method whose forget gradient alone is masked; the retain gradient, moments and weight decay move everything.

    A weight's score is the sum of |gradient of a batch's token mean NLL| over `batches` batches of forget records,
    drawn once without replacement, in eval mode. A batch has as many records as one of the training; where the forget
    set has fewer records than all of them together, each is in one batch, and the last may be smaller.

    Args:
        batches: of the scores.

    Source: DurableUn, arXiv 2605.02196, baseline SalUn.
    """

    batches: int = 10

    def scores(self, model: nn.Module, records: Sequence[Encoded], weights: Weights) -> dict[str, Tensor]:
        return batch_saliency(model, records, weights, self.batches, self.recipe.batch_size)

    def under(self, mask: Mapping[str, Tensor]) -> Method:
        return replace(self, combine=MaskedTerm("forget", mask))

    def passes_beforehand(self, sizes: Mapping[str, int]) -> int:
        """The batches of the scores, where a mask is made."""
        return 0 if self.share == 1 else min(sizes["forget"], self.batches * self.recipe.batch_size)


def batch_saliency(
    model: nn.Module, records: Sequence[Encoded], weights: Weights, batches: int, batch_size: int
) -> dict[str, Tensor]:
    """Sum over batches of |gradient of the token mean of the answers' NLL|, in eval mode.

    Args:
        model: given back as it was.
        records: in an order of their own, which is the same each time.
        weights: those of the model that are scored.
        batches: at most so many; fewer where records run out.
        batch_size: records of a batch.

    Returns:
        weight's name -> float32 (float64 where the weight is), of its shape.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed_of("batch saliency", len(records)))
    order = torch.randperm(len(records), generator=generator).tolist()[: batches * batch_size]
    parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    drawn = (collate(records, part, 0).to(device) for part in parts)  # padding is masked, so any token will do
    return importance(model, drawn, token_nll, reduce="sum_of_abs", unit="batch", weights=weights)


def method(
    form: str = "salun",
    share: float = 0.5,
    loss: str = "auto",
    beta: float = 0.1,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> Method:
    """SalUn with its share and open-unlearning's training defaults, or DurableUn's baseline of that name with its own.

    Args:
        form: "salun", or "durableun": sums of absolute gradients of ten batches make the mask, which holds the forget
            gradient alone.
        share: k, of the weights that may move, in DurableUn's form by the forget gradient; 1 is all.
        loss: forget loss: "npo", "grad-ascent" or "random-labels"; "auto" is NPO, in DurableUn's form ascent.
        beta: NPO's inverse temperature.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    if form not in FORMS:
        raise InputError("form", form, did_you_mean(form, FORMS))
    loss = _AUTO[form] if loss == "auto" else loss
    if loss not in LOSSES:
        raise InputError("loss", loss, did_you_mean(loss, LOSSES))
    objective = {"npo": NPO(beta), "grad-ascent": GradDiff(), "random-labels": RandomLabels()}[loss]
    weights = {"forget": forget_weight, "retain": retain_weight}
    if form == "salun":
        return Masked(objective, weights=weights, recipe=Recipe(), share=share)
    # The mask is made when a run begins; the combination stands here too, so that its price is known before.
    return MaskedForget(objective, weights=weights, combine=MaskedTerm("forget"), recipe=DURABLEUN, share=share)
