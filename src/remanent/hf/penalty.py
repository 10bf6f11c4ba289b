"""transformers.Trainer with a term of `remanent.optim` added to its loss: SAF, MESA, R3F, SMART."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from remanent.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from remanent.core.model_inputs import logits_of
from remanent.errors import InputError
from remanent.hf.resume import checkpoint_to_resume
from remanent.optim import MESA, R3F, SAF, SMART

# Beside Trainer's own files in each of its checkpoints.
STATE = "remanent_penalty"


class PenaltyTrainer(Trainer):
    """transformers.Trainer whose training loss is its own plus a term's. Evaluation is without the term.

    Everything else is Trainer's: its loss, schedules, clipping, mixed precision, accumulation, over whose batches the
    term is a mean. Checkpoints hold the term's state, and resume with `train(resume_from_checkpoint=True)`.

    Args:
        model: the model that the term was made of, or for SAF any.
        args: Trainer's. For SAF with `remove_unused_columns=False`.
        penalty: the term. For SAF each item of the data set has its number in it as "index".
        options: Trainer's.

    Raises InputError for a batch without "index" where SAF asks for it.
    """

    def __init__(
        self, model: nn.Module, args: TrainingArguments, *, penalty: MESA | R3F | SAF | SMART, **options: Any
    ) -> None:
        super().__init__(model, args, **options)
        self.penalty = penalty
        self.add_callback(_Lifecycle(self))

    def train(
        self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None, *arguments: Any, **options: Any
    ) -> TrainOutput:
        """Trainer's, with the term's state taken up from a checkpoint."""
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        if isinstance(checkpoint, str) and not isinstance(self.penalty, R3F):
            self.penalty.load_state_dict(load_checkpoint(Path(checkpoint) / STATE).state)
        return super().train(checkpoint, *arguments, **options)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Trainer's loss and, while the model trains, the term."""
        given = dict(inputs)
        index = given.pop("index", None)
        loss, outputs = super().compute_loss(model, dict(given), True, num_items_in_batch)
        if model.training:
            term = self._term(logits_of(outputs), index, given)
            scaled = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            if scaled or self.compute_loss_func is not None:  # Trainer does not divide a loss that is a mean already
                term = term / self.current_gradient_accumulation_steps
            loss = loss + term.to(loss.device)
        return (loss, outputs) if return_outputs else loss

    def _term(self, logits: Tensor, index: Tensor | None, given: dict[str, Any]) -> Tensor:
        if isinstance(self.penalty, SAF):
            if index is None:
                expected = "each record's number in the data set, and remove_unused_columns=False"
                raise InputError("inputs['index']", None, expected)
            return self.penalty(logits, index, int(self.state.epoch or 0))
        encoder_decoder = getattr(getattr(self.model, "config", None), "is_encoder_decoder", False)
        if not encoder_decoder:  # which makes its decoder's input of them
            given.pop("labels", None)
        with self.accelerator.autocast():
            return self.penalty(logits, **given)


class _Lifecycle(TrainerCallback):
    """Trainer's moments at which the term is updated and saved."""

    def __init__(self, trainer: PenaltyTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if isinstance(self.trainer.penalty, MESA | SMART):
            self.trainer.penalty.update()

    @torch.no_grad()
    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.is_world_process_zero and not isinstance(self.trainer.penalty, R3F):
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
            save_checkpoint(folder, Checkpoint(state.global_step, {}, self.trainer.penalty.state_dict()))
