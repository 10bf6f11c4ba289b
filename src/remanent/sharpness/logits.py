"""Losses of normalized logits, so that a sharpness does not shrink because logits grow."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from remanent.core.batch import Batch
from remanent.core.importance.losses import SampleLoss, class_nll, logits_of_answers, token_nll
from remanent.core.model_inputs import logits_of
from remanent.errors import InputError

Form = Literal["code", "paper"]
_TINY = 1e-10


def normalized(logits: Tensor, form: Form = "code") -> Tensor:
    """Logits of one size for each sample.

    Args:
        logits: (samples, classes).
        form: "code": centred, divided by their L2 norm, as in the paper's code. "paper": divided by their standard
            deviation and not centred, which is sqrt(classes) larger up to a shift that cross-entropy does not see.

    Source: arXiv 2302.07011, section 3; code of tml-epfl/sharpness-vs-generalization.
    """
    if form not in ("code", "paper"):
        raise InputError("form", form, "'code' or 'paper'")
    centred = logits - logits.mean(dim=-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    found: Tensor = centred / length if form == "code" else logits * (logits.shape[-1] ** 0.5) / length
    return found


def normalized_class_nll(form: Form = "code") -> SampleLoss:
    """`class_nll` of normalized logits. Arguments as for `normalized`."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        inputs, labels = batch
        return functional.cross_entropy(normalized(logits_of(model(inputs)), form), labels, reduction="none")

    return loss


def normalized_token_nll(form: Form = "code") -> SampleLoss:
    """`token_nll` of normalized logits. Arguments as for `normalized`."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits, labels, _ = logits_of_answers(model, batch)
        return functional.cross_entropy(normalized(logits, form), labels, reduction="none")

    return loss


def normalized_loss(loss: SampleLoss) -> SampleLoss:
    """The same loss of normalized logits, of `class_nll` or `token_nll`. Raises InputError for another."""
    for plain, scaled in ((class_nll, normalized_class_nll), (token_nll, normalized_token_nll)):
        if loss is plain:
            return scaled()
    raise InputError("loss", getattr(loss, "__name__", loss), "class_nll or token_nll, whose logits can be normalized")
