"""The gradient-norm attack: a record that was learnt pulls at the weights less than one that was not.

OpenUnlearning's sixth membership attack (arXiv 2402.17012; its code at commit d3d7cf9): the mean over weight tensors of
the norm of the gradient of a record's mean NLL. Here in eval mode, where its code draws dropout; and each tensor's
gradient is let go as soon as its norm is known, so that no more than one is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from remanent.auditing.evidence import CONTROL, FORGET
from remanent.auditing.measure_names import GRADIENT
from remanent.auditing.text_score import TextScore
from remanent.core.batch import Batch, collate
from remanent.core.modes import evaluating
from remanent.core.scores import answer_scores
from remanent.data.encode import pad_id
from remanent.data.record import Record
from remanent.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer


@dataclass(frozen=True)
class GradientNorm:
    """A forward and a backward pass for each record of forget and control, one at a time."""

    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> GradientNorm:
        """The look; it needs a forget set and a control to compare with."""
        if not named.get(FORGET) or not named.get(CONTROL):
            raise InputError("at", "gradient-norm", "a forget set and a control, whose gradients are compared")
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records passed through the model."""
        return sum(len(named.get(name, ())) for name in (FORGET, CONTROL))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Minus each record's gradient norm: higher is more member-like."""
        found: dict[str, list[TextScore]] = {}
        with measurer.at(condition) as model:
            device = next(model.parameters()).device
            for name in (FORGET, CONTROL):
                part = measurer.sets[name].asked(condition.prompts, measurer.tokenizer)
                found[name] = []
                for row, hashes in enumerate(part.hashes):
                    batch = collate(part.encoded, [row], pad_id(measurer.tokenizer)).to(device)
                    norm = gradient_norm(model, batch, measurer.autocast)
                    found[name].append(TextScore(*hashes, {GRADIENT: -norm}))
                    if measurer.on_batch is not None:
                        measurer.on_batch(1)
        return found


@torch.enable_grad()
def gradient_norm(model: nn.Module, batch: Batch, autocast: torch.dtype | None = None) -> float:
    """The mean over weight tensors that take a gradient of its L2 norm, of the mean NLL of a batch's scored tokens.

    Weights, their gradients and the model's mode are left as they were.

    Args:
        model: the model.
        batch: one record.
        autocast: dtype of the arithmetic; None computes in the weights' dtype.

    Raises:
        UnsupportedError: where no weight takes a gradient, as in a packed model.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise UnsupportedError("gradient-norm: no weight of this model takes a gradient")
    norms: list[float] = []

    def let_go(weight: Tensor) -> None:
        assert weight.grad is not None
        norms.append(float(torch.linalg.vector_norm(weight.grad.float())))
        weight.grad = None

    aside = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    hooks = [weight.register_post_accumulate_grad_hook(let_go) for weight in weights]  # type: ignore[no-untyped-call]
    try:
        with evaluating(model):
            with torch.autocast(batch.input_ids.device.type, dtype=autocast, enabled=autocast is not None):
                loss = -answer_scores(model, batch).log_probs.mean()
            loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for hook in hooks:
            hook.remove()
        for weight, grad in zip(weights, aside, strict=True):
            weight.grad = grad
    return sum(norms) / len(norms)
