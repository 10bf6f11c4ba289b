"""transformers.Trainer for optimizers that take their gradient twice, at w and at another point: SAM and its family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from remanent.errors import InputError, UnsupportedError
from remanent.optim import ESAM, MSAM
from remanent.optim.multi_task import MultiTask
from remanent.optim.two_pass import TwoPass

Inputs = dict[str, Tensor | Any]


class TwoPassTrainer(Trainer):
    """transformers.Trainer whose updates are SAM's: both passes see the same batches, accumulated ones too.

    Trainer itself calls `optimizer.step()` without a closure, which no such optimizer can use. Everything else is
    Trainer's: its loss, clipping (of the gradient that the base optimizer sees), schedules, mixed precision,
    checkpoints. The loss that it logs is that at w.

    Give it the optimizer as `optimizers=(SAM(...), None)`, or for Trainer's own groups, which spare biases and norms
    the weight decay, as `optimizer_cls_and_kwargs=(SAM, {"base": torch.optim.AdamW, "lr": 1e-4, "rho": 0.05})`. An
    MSAM's micro-batches are the batches that are accumulated, `per_device_train_batch_size` records each.

    Args:
        arguments: Trainer's.
        ascent_share: share of each batch's records that the first pass sees, above 0 and at most 1. What is logged is
            then the loss of that share.
        record_losses: for `ESAM`: given the model and a batch, the loss of each record, shape (records,).
        options: Trainer's.

    Raises:
        InputError: for another optimizer, and for options that do not go with it.
        UnsupportedError: under DeepSpeed and FSDP1.
    """

    def __init__(
        self,
        *arguments: Any,
        ascent_share: float = 1.0,
        record_losses: Callable[[nn.Module, Inputs], Tensor] | None = None,
        **options: Any,
    ) -> None:
        if not 0 < ascent_share <= 1:
            raise InputError("ascent_share", ascent_share, "above 0, at most 1")
        self.ascent_share, self.record_losses = ascent_share, record_losses
        super().__init__(*arguments, **options)

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """Trainer's, and it takes two passes."""
        optimizer = super().create_optimizer(*arguments, **options)
        self._check(getattr(optimizer, "optimizer", optimizer))
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise UnsupportedError("DeepSpeed's engine steps at every backward pass; use plain data parallelism (DDP)")
        if getattr(getattr(self.accelerator.state, "fsdp_plugin", None), "fsdp_version", 2) == 1:
            raise UnsupportedError("FSDP1's flat shards have no rows; use FSDP2 or plain data parallelism (DDP)")
        return optimizer

    def train(self, *arguments: Any, **options: Any) -> TrainOutput:
        """Trainer's."""
        self._waiting: list[Inputs] = []
        return super().train(*arguments, **options)

    def training_step(self, model: nn.Module, inputs: Inputs, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Keep a batch until the update has all of its batches; then leave the update's gradient in `.grad`.

        Returns the update's loss at w, and 0 for the batches that only wait for it.
        """
        self._waiting.append(inputs)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batches, self._waiting = self._waiting, []
        optimizer = getattr(self.optimizer, "optimizer", None)
        assert isinstance(optimizer, TwoPass)  # create_optimizer has seen to it
        if optimizer.model is None or optimizer.model is getattr(model, "module", None):
            optimizer.model = model  # as it was prepared, for several processes
        scaler = self.accelerator.scaler
        if isinstance(optimizer, ESAM):
            records = sum(map(_size, batches))
            return optimizer.gradients(partial(self._record_losses, model, batches), scaler, records=records)
        one_batch = super().training_step
        if isinstance(optimizer, MSAM):
            return optimizer.added([partial(one_batch, model, b, num_items_in_batch) for b in batches], scaler)

        def passed(items: Tensor | int | None, *given: Inputs) -> Tensor:
            *before, last = given
            with self.accelerator.no_sync(model):
                losses = [one_batch(model, batch, items) for batch in before]
            return torch.stack([*losses, one_batch(model, last, items)]).sum()

        whole = partial(passed, num_items_in_batch, *batches)
        if self.ascent_share == 1:
            return optimizer.gradients(whole, scaler)
        parts = [_rows(batch, slice(0, math.ceil(self.ascent_share * _size(batch)))) for batch in batches]
        # A loss that is a sum over items is divided by those of the parts; where these have none it is 0 anyway.
        _, items = self.get_batch_samples(iter(parts), len(parts), self.args.device)
        return optimizer.gradients(whole, scaler, ascent=partial(passed, items or num_items_in_batch, *parts))

    def _check(self, optimizer: Any) -> None:
        if not isinstance(optimizer, TwoPass):
            raise InputError("optimizers", type(optimizer).__name__, "one of remanent.optim, such as SAM")
        if isinstance(optimizer, MultiTask):
            expected = "an optimizer of one loss, such as SAM: Trainer has none for each task; call `step` in a loop"
            raise InputError("optimizers", type(optimizer).__name__, expected)
        if isinstance(optimizer, ESAM) != (self.record_losses is not None):
            expected = "a function of the model and a batch for ESAM, which chooses records by their losses, else None"
            raise InputError("record_losses", self.record_losses, expected)
        if isinstance(optimizer, ESAM | MSAM) and self.ascent_share != 1:
            expected = f"1: {type(optimizer).__name__} says itself which records its passes see"
            raise InputError("ascent_share", self.ascent_share, expected)
        size = self.args.per_device_train_batch_size
        if isinstance(optimizer, MSAM) and optimizer.micro_batch_size != size:
            expected = f"per_device_train_batch_size, {size}: the batches that are accumulated are the micro-batches"
            raise InputError("micro_batch_size", optimizer.micro_batch_size, expected)

    def _record_losses(self, model: nn.Module, batches: list[Inputs], rows: Tensor) -> Tensor:
        """Of rows of the update's batches, one after another."""
        assert self.record_losses is not None
        model.train()
        found, start = [], 0
        for batch in batches:
            size = _size(batch)
            here = rows[(rows >= start) & (rows < start + size)] - start
            start += size
            if len(here):
                inputs = self._prepare_inputs(_rows(batch, here))
                with self.compute_loss_context_manager():
                    found.append(self.record_losses(model, inputs))
        return torch.cat(found)


def _size(batch: Mapping[str, Any]) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim())


def _rows(batch: Mapping[str, Any], rows: slice | Tensor) -> Inputs:
    size = _size(batch)

    def taken(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim() or len(value) != size:
            return value
        return value[rows if isinstance(rows, slice) else rows.to(value.device)]

    return {name: taken(value) for name, value in batch.items()}
