"""transformers.Trainer for optimizers that take their gradient twice, at w and at another point: SAM."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from remanent.errors import InputError, UnsupportedError
from remanent.optim.two_pass import TwoPass


class TwoPassTrainer(Trainer):
    """transformers.Trainer whose updates are SAM's: both passes see the same batches, accumulated ones too.

    Trainer itself calls `optimizer.step()` without a closure, which no such optimizer can use. Everything else is
    Trainer's: its loss, clipping (of the second gradient), schedules, mixed precision, checkpoints. The loss that it
    logs is that at w.

    Give it the optimizer as `optimizers=(SAM(...), None)`, or for Trainer's own groups, which spare biases and norms
    the weight decay, as `optimizer_cls_and_kwargs=(SAM, {"base": torch.optim.AdamW, "lr": 1e-4, "rho": 0.05})`.

    Raises:
        InputError: for another optimizer.
        UnsupportedError: under DeepSpeed.
    """

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """Trainer's, and it takes two passes."""
        optimizer = super().create_optimizer(*arguments, **options)
        if not isinstance(getattr(optimizer, "optimizer", optimizer), TwoPass):
            raise InputError("optimizers", type(optimizer).__name__, "one of remanent.optim, such as SAM")
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise UnsupportedError("DeepSpeed's engine steps at every backward pass; use plain data parallelism (DDP)")
        return optimizer

    def train(self, *arguments: Any, **options: Any) -> TrainOutput:
        """Trainer's."""
        self._waiting: list[dict[str, Tensor | Any]] = []
        return super().train(*arguments, **options)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Keep a batch until the update has all of its batches; then leave the gradient at w + e in `.grad`.

        Returns the update's loss at w, and 0 for the batches that only wait for it.
        """
        self._waiting.append(inputs)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        (*before, last), self._waiting = self._waiting, []
        optimizer = getattr(self.optimizer, "optimizer", None)
        assert isinstance(optimizer, TwoPass)  # create_optimizer has seen to it
        if optimizer.model is None:
            optimizer.model = model
        one_batch = super().training_step

        def closure() -> Tensor:
            with self.accelerator.no_sync(model):
                losses = [one_batch(model, batch, num_items_in_batch) for batch in before]
            return torch.stack([*losses, one_batch(model, last, num_items_in_batch)]).sum()

        return optimizer.gradients(closure, self.accelerator.scaler)
