"""The model after somebody fine-tunes it further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from remanent.core.batch import Batch
from remanent.core.displacement.base import Context, Displacement
from remanent.core.modes import keeping_modes
from remanent.core.scores import answer_scores
from remanent.core.weights import Weights
from remanent.errors import DivergedError, InputError, UnsupportedError


@dataclass(frozen=True, eq=False)
class Relearning(Displacement):
    """The weights after `steps` updates of AdamW on `batches`, taken in turn.

    To learn at this point is first order: the fine-tuning is not differentiated through. Moves every weight that
    takes a gradient; meanwhile it costs a gradient and two moments of each.

    Args:
        batches: what is trained on, in this order, from the start again when there are fewer than `steps`.
        steps: number of updates, at least 1.
        learning_rate: AdamW's; without weight decay, constant.
        seed: of dropout.
        autocast: dtype of the arithmetic; None takes bfloat16 where the update that
            learns here does, else the weights' own.

    Source: relearning attack, arXiv 2406.13356.
    """

    batches: Sequence[Batch]
    steps: int
    learning_rate: float = 2e-5
    seed: int = 0
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError("steps", self.steps, "at least 1 step")
        if not self.batches:
            raise InputError("batches", "none", "at least one batch to relearn from")

    @property
    def held(self) -> int:
        return 3  # a gradient and AdamW's two moments

    def moving(self, weights: Weights) -> Weights:
        chosen = weights.trainable()
        if not chosen:
            raise UnsupportedError("relearning trains what takes a gradient, and no weight of this model does")
        return chosen

    @torch.enable_grad()
    def move(self, weights: Weights, context: Context) -> None:
        model = context.model
        if model is None:
            raise UnsupportedError("relearning trains a model; optimizer param_groups are not enough")
        # Gradients in float16 would have to be scaled, as the update's own are: these are taken in the weights' dtype.
        dtype = self.autocast or (None if context.autocast == torch.float16 else context.autocast)
        aside = {name: tensor.grad for name, tensor in weights.items()}
        device = next(iter(weights.values())).device
        torch.manual_seed(self.seed)  # the generators' states are given back when the point is left
        optimizer = torch.optim.AdamW(list(weights.values()), lr=self.learning_rate, weight_decay=0.0)
        try:
            with keeping_modes(model):
                model.train()
                for step in range(self.steps):
                    optimizer.zero_grad(set_to_none=True)
                    batch = self.batches[step % len(self.batches)].to(device)
                    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                        scores = answer_scores(model, batch)
                    loss = -scores.log_probs.mean()
                    if not torch.isfinite(loss):
                        raise DivergedError(f"relearning: the loss is {loss.item()} at step {step + 1} of {self.steps}")
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    torch.clear_autocast_cache()
        finally:
            for name, tensor in weights.items():
                tensor.grad = aside[name]

    def __str__(self) -> str:
        return f"relearning-{self.steps}"
