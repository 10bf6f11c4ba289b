"""The thin trainer: a method's own updates inside transformers.Trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from remanent.core.batch import Encoded, collate
from remanent.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from remanent.core.episode import Episode
from remanent.core.method import Method, check_judged, check_paired
from remanent.core.packed import keep_as_packed
from remanent.core.reference import data_digest, reference_nll
from remanent.core.sampling import seed_of
from remanent.core.update import Update, reference_of
from remanent.core.weights import Weights
from remanent.data.encode import pad_id
from remanent.errors import InputError, RunConflictError, UnsupportedError
from remanent.hf.callback import RemanentCallback
from remanent.hf.dataset import Positions, RoleDataset
from remanent.hf.resume import checkpoint_to_resume

# Beside Trainer's own files in each of its checkpoints.
STATE = "remanent_method"
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MethodTrainer(Trainer):
    """transformers.Trainer whose updates are a method's: its points, combine, pull and lifecycle calls.

    With the same learning rates and without weight decay, which Trainer spares biases and norms, it makes the updates
    of `remanent.core.loop.run_episode`. The method's recipe is not used: learning rate, steps, batch and clipping are
    those of `args`. Gradient accumulation is mapped to
    micro-batches: an update sees all its accumulated records at once, takes its means over all of them, and passes
    `per_device_train_batch_size` through the model at a time. Logs each term's mean as "term@point".

    Args:
        model: trained in place; it is also the reference of methods that need one, measured before the first update.
        method: the composition.
        args: Trainer's. `data_seed`, else `seed`, orders the records.
        train_dataset: role -> records, or an episode.
        processing_class: the tokenizer, for its pad token, and to be saved with the model.
        reference_cache: folder in which reference scores are kept.
        callbacks: further callbacks, for example `remanent.hf.callback.RemanentCallback`.
        optimizers: an optimizer and a scheduler in place of those that `args` describes.

    Raises:
        InputError: for a role without records, and for arguments that would change a method's losses or batches.
        UnsupportedError: under DeepSpeed and FSDP.
    """

    model: nn.Module
    train_dataset: RoleDataset
    _update: Update
    _gradient_norm: float

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        args: TrainingArguments,
        train_dataset: Mapping[str, Sequence[Encoded]] | Episode,
        *,
        processing_class: PreTrainedTokenizerBase | None = None,
        reference_cache: Path | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        _check_arguments(args)
        if not isinstance(train_dataset, Episode):
            train_dataset = Episode("train", "erase" if "forget" in train_dataset else "teach", train_dataset)
        self.method, self.episode, self.reference_cache = method, train_dataset, reference_cache
        self.pad_id = 0 if processing_class is None else pad_id(processing_class)
        self._begun, self._left = method, self.episode
        dataset = self._dataset(args)
        super().__init__(
            model,
            args,
            data_collator=dataset.collate,
            train_dataset=dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        state = self.accelerator.state
        _refuse_sharding(getattr(state, "deepspeed_plugin", None), getattr(state, "fsdp_plugin", None))
        self.add_callback(_Lifecycle(self))
        self._reference: dict[str, Tensor] | None = None

    def train(
        self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None, *arguments: Any, **options: Any
    ) -> TrainOutput:
        """Trainer's. A checkpoint also holds the method's state and its reference's scores.

        Raises RunConflictError where the records are not those of the checkpoint's run, InputError where a callback's
        rule would judge a method that makes its model at the end.
        """
        keep_as_packed(self.model)
        begun = self.method.begin(self.model, self.episode)
        if begun is None:
            return TrainOutput(0, 0.0, {})
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, RemanentCallback):
                check_judged(begun, callback.rule)
        self._begun, self._left = begun, begun.trained_on(self.episode)
        self.train_dataset = self._dataset(self.args)
        self.data_collator = self.train_dataset.collate
        self._waiting: list[Mapping[str, Tensor]] = []
        self._sums: dict[str, tuple[float, int]] = {}
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        if isinstance(checkpoint, str):
            self._take_up(Path(checkpoint))
        elif self._reference is None:
            self._reference = self._references()
        # Before Trainer loads a checkpoint's weights over those that the reference is.
        self._before = reference_of(begun, begun.select.of(Weights.of(self.model).trainable()))
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        chosen = begun.select.of(Weights.of(self.model).trainable())
        try:
            for name, tensor in Weights.of(self.model).items():
                if name not in chosen:
                    tensor.requires_grad_(False)
            output = super().train(checkpoint, *arguments, **options)
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
                parameter.grad = None
        begun.end(self.model, self._left)
        return output

    def training_step(
        self, model: nn.Module, inputs: Mapping[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Keep a batch until the update has all of its batches; then leave the finished gradient in `.grad`.

        Returns the update's weighted loss, and 0 for the batches that only wait for it.
        """
        self._waiting.append(inputs)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batches = {}
        for role, records in self.train_dataset.data.items():
            indices = torch.cat([part[role] for part in self._waiting]).tolist()
            batch = collate(records, indices, self.pad_id).to(self.args.device)
            batches[role] = batch.with_reference((self._reference or {}).get(role))
        self._waiting = []
        self.model.train()
        assert self.optimizer is not None
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()  # optimizers without a schedule train at other weights than they show
        self._update.step = self.state.global_step
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_of(self.args.seed, "dropout", self._update.step + 1, self.args.process_index))
            losses = self._update.gradients(batches)
        self._gradient_norm = losses.pop("gradient_norm")
        for name, value in losses.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1
        return torch.tensor(self._weighted(losses), device=self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, and with its training loss the mean of each term since the last time."""
        if "loss" in logs:
            logs |= {name: total / count for name, (total, count) in self._sums.items()}
            self._sums = {}
        super().log(logs, start_time)

    def _dataset(self, args: TrainingArguments) -> RoleDataset:
        for role in self._begun.roles:
            if role not in self._left.data:
                known = ", ".join(self._left.data) or "none"
                raise InputError("train_dataset", known, f"records for '{role}', which the method needs")
        check_paired(self._begun.objective, self._left.data)
        size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        data = {role: self._left.data[role] for role in self._begun.roles}
        shortest = min(data, key=lambda role: len(data[role]))
        if args.world_size > 1 and len(data[shortest]) < size:
            raise InputError(
                f"train_dataset['{shortest}']", len(data[shortest]), f"{size} records, one update over all processes"
            )
        seed = args.seed if args.data_seed is None else args.data_seed
        return RoleDataset(data, size, seed, self._begun.objective.paired)

    def _references(self) -> dict[str, Tensor]:
        return {
            role: reference_nll(
                self.model,
                self._left.data[role],
                pad_id=self.pad_id,
                autocast=_AUTOCAST.get(self.accelerator.mixed_precision),
                cache=self.reference_cache,
            ).to(self.args.device)
            for role in sorted(self._begun.objective.needs_reference)
        }

    def _take_up(self, checkpoint: Path) -> None:
        state = load_checkpoint(checkpoint / STATE).state
        if state["data"] != self._digests():
            raise RunConflictError(f"{checkpoint} belongs to a run on other records")
        self._begun.load_state_dict(state["method"])
        self._reference = {role: nll.to(self.args.device) for role, nll in state["reference"].items()}

    def _digests(self) -> dict[str, str]:
        return {role: data_digest(records) for role, records in self.train_dataset.data.items()}

    def _weighted(self, losses: Mapping[str, float]) -> float:
        total = losses.get("pull", 0.0)
        for place in self._begun.places:
            label = str(place.displacement.resolve(self._update.step))
            factor = place.weight_at(self._update.step, self._update.steps)
            for name in place.terms or tuple(self._begun.objective.terms):
                total += factor * self._begun.weights.get(name, 1.0) * losses.get(f"{name}@{label}", 0.0)
        return total

    def _get_train_sampler(self, train_dataset: Any = None) -> Positions:
        self._positions = Positions(len(self.train_dataset))
        return self._positions

    # The update unscales and clips, each once and where its order has them.
    def _clip_grad_norm(self, model: nn.Module) -> float:
        return self._gradient_norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float:
        return self._gradient_norm


class _Lifecycle(TrainerCallback):
    """Trainer's moments at which the method, its update or its data are due."""

    def __init__(self, trainer: MethodTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        trainer = self.trainer
        assert trainer.optimizer is not None
        trainer._update = Update(
            trainer.model,
            trainer._begun,
            trainer.optimizer,
            steps=state.max_steps,
            micro_batch=args.per_device_train_batch_size,
            max_grad_norm=args.max_grad_norm if args.max_grad_norm > 0 else None,
            autocast=_AUTOCAST.get(trainer.accelerator.mixed_precision),
            accelerator=trainer.accelerator,
            reference=trainer._before,
            on_warning=logging.getLogger(__name__).warning,
        )

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        self.trainer._positions.passes = state.global_step // self.trainer.train_dataset.updates_per_pass

    def on_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        self.trainer._update.step = state.global_step + 1
        self.trainer._update.updated()

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        if not state.is_world_process_zero:
            return
        trainer = self.trainer
        saved = {
            "method": trainer._begun.state_dict(),
            "reference": trainer._reference,
            "data": trainer._digests(),
        }
        assert args.output_dir is not None  # TrainingArguments gives itself one
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
        save_checkpoint(folder, Checkpoint(state.global_step, {}, saved))


def _check_arguments(args: TrainingArguments) -> None:
    if args.label_smoothing_factor != 0:
        raise InputError("label_smoothing_factor", args.label_smoothing_factor, "0, since the losses are the method's")
    if args.auto_find_batch_size:
        raise InputError("auto_find_batch_size", True, "False, since another batch is another run")
    fsdp_version = (args.fsdp_plugin_args or {}).get("fsdp_version", 2) if args.fsdp else None
    _refuse_sharding(args.deepspeed_plugin, fsdp_version)


def _refuse_sharding(deepspeed: Any, fsdp: Any) -> None:
    if deepspeed is not None:
        stage = deepspeed.zero_stage
        why = "its shards have no rows" if stage == 3 else "its engine steps at every backward pass"
        raise UnsupportedError(f"DeepSpeed ZeRO-{stage} cannot run a method: {why}; use plain data parallelism (DDP)")
    if fsdp is not None:
        version = getattr(fsdp, "fsdp_version", fsdp)
        why = "its flat shards have no rows" if version == 1 else "it averages gradients that an update adds up itself"
        raise UnsupportedError(f"FSDP{version} cannot run a method: {why}; use plain data parallelism (DDP)")
