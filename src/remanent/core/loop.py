"""The loop: an episode from its first update to its last, on accelerate, resumable bit for bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol
from weakref import proxy

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from remanent.core.batch import Batch, collate
from remanent.core.checkpoint import (
    Checkpoint,
    copy_into,
    load_checkpoint,
    prune,
    renewed,
    save_checkpoint,
    step_folder,
    steps_saved,
)
from remanent.core.episode import Episode
from remanent.core.evaluation import Evaluation
from remanent.core.files import write_atomic
from remanent.core.memory import give_back_freed
from remanent.core.method import Method, Recipe, check_judged, check_paired
from remanent.core.own_accelerator import own_accelerator
from remanent.core.packed import keep_as_packed
from remanent.core.processes import agreed
from remanent.core.reference import reference_nll
from remanent.core.sampling import Sampler, seed_of
from remanent.core.schedule import learning_rate_factor
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import DivergedError, InputError, IntegrityError

Precision = Literal["fp32", "bf16", "fp16"]


class Rule(Protocol):
    """Evaluates a model during a run, says which step is best and when to stop."""

    def __call__(self, model: nn.Module, step: int) -> Evaluation: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Settings:
    """How an episode is run, as far as its method does not say.

    Args:
        pad_id: token that fills short rows.
        seed: decides the order of records and dropout.
        precision: of the arithmetic; weights, gradients and optimizer keep the weights' dtype.
        micro_batch: most records per forward and backward pass; None takes each batch whole. Halved where memory runs
            out, with a warning, for the rest of the run.
        evaluate_every: updates between evaluations; 0 evaluates before the first update and after the last only.
        checkpoint_every: updates between checkpoints; 0 writes none.
        keep_checkpoints: how many of the newest are kept, at least 2, so that a broken one has a predecessor.
        dropout: train with the model's dropout.
    """

    pad_id: int
    seed: int = 0
    precision: Precision = "fp32"
    micro_batch: int | None = None
    evaluate_every: int = 10
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    dropout: bool = True

    def __post_init__(self) -> None:
        for name, least in (("evaluate_every", 0), ("checkpoint_every", 0), ("keep_checkpoints", 2)):
            if getattr(self, name) < least:
                raise InputError(name, getattr(self, name), f"at least {least}")

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of the arithmetic; None is the weights' own."""
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


@dataclass(frozen=True)
class Outcome:
    """How an episode ended. The model holds the best step's weights where there was a rule, else the last's.

    Args:
        steps: updates made.
        planned: updates planned.
        stopped: whether the rule ended it early.
        best_step: the step whose weights the model now holds.
        evaluations: in order.
    """

    steps: int
    planned: int
    stopped: bool
    best_step: int
    evaluations: tuple[Evaluation, ...]


# step, planned steps, losses of the update
OnStep = Callable[[int, int, Mapping[str, float]], None]


def planned_steps(recipe: Recipe, records: int) -> int:
    """Updates of a run over a first role of that many records."""
    if recipe.steps is not None:
        return recipe.steps
    return max(1, math.ceil(recipe.epochs * records / min(recipe.batch_size, records)))


def run_episode(
    model: nn.Module,
    method: Method,
    episode: Episode,
    settings: Settings,
    *,
    rule: Rule | None = None,
    folder: Path | None = None,
    on_step: OnStep | None = None,
    on_warning: Callable[[str], None] = lambda text: None,
    reference_cache: Path | None = None,
    accelerator: Accelerator | None = None,
) -> Outcome:
    """Run one episode. Given a folder that holds a run's checkpoints, it goes on from the newest that is whole.

    Args:
        model: trained in place.
        method: the composition; its recipe decides steps, batch and optimizer.
        episode: the data, one set per role of the method.
        settings: how to run it.
        rule: evaluates during the run, stops it and picks the best step: of those that were evaluated after an update,
            the first with the highest score, whose weights and buffers the model then holds, in a run that was cut off
            and went on too. None runs to the end and keeps the last.
        folder: where checkpoints and metrics.jsonl go; None writes nothing.
        on_step: called after each update. The model is left in eval mode.
        on_warning: called with a sentence, for example when a broken checkpoint is passed over.
        reference_cache: folder in which reference scores are kept.
        accelerator: the program's own, where the run is to use it; None: one of the run's own.

    Raises InputError before any work where data is missing or the method must not be judged by a rule, DivergedError
    where a loss is not finite, UnsupportedError where memory does not hold one record.
    """
    keep_as_packed(model)
    begun = method.begin(model, episode)
    if begun is None:
        return Outcome(0, 0, False, 0, ())
    method, episode = begun, begun.trained_on(episode)
    for role in method.roles:
        if role not in episode.data:
            raise InputError("data", ", ".join(episode.data) or "none", f"records for '{role}', which the method needs")
    check_paired(method.objective, episode.data)
    check_judged(method, rule)
    fitting = (
        own_accelerator(next(model.parameters()).device, settings.precision == "fp16")
        if accelerator is None
        else nullcontext(accelerator)
    )
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with fitting as using:
            # Not held by a name: what it trained with is freed when it has ended.
            outcome = _Run(model, method, episode, settings, rule, folder, on_warning, reference_cache, using).to_end(
                on_step
            )
    finally:
        for parameter, flag in requires_grad:
            parameter.requires_grad_(flag)
            parameter.grad = None
    method.end(model, episode)
    give_back_freed()
    return outcome


class _Run:
    """The parts of one episode that live as long as it does."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        episode: Episode,
        settings: Settings,
        rule: Rule | None,
        folder: Path | None,
        on_warning: Callable[[str], None],
        reference_cache: Path | None,
        accelerator: Accelerator,
    ) -> None:
        self.accelerator = accelerator
        self.model, self.method, self.settings, self.rule = model, method, settings, rule
        self.warn = on_warning
        self.checkpoints = None if folder is None else folder / "checkpoints"
        self.metrics = None if folder is None else folder / "metrics.jsonl"
        self.data = {role: episode.data[role] for role in method.roles}
        self.recipe = method.recipe
        self.steps = planned_steps(self.recipe, len(self.data[method.roles[0]]))
        self.reference = self._references(reference_cache)
        self.trained = self._select()
        self.optimizer = torch.optim.AdamW(
            list(self.trained.values()),
            lr=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        smallest = min(self.recipe.batch_size, *(len(records) for records in self.data.values()))
        if smallest < accelerator.num_processes:
            expected = f"at least {accelerator.num_processes} records of every role in a batch, one for each process"
            raise InputError("batch_size and data", smallest, expected)
        self.samplers = {
            # Records that belong to another role's come in its order.
            role: Sampler(len(records), self.recipe.batch_size, settings.seed, method.objective.paired.get(role, role))
            for role, records in self.data.items()
        }
        here = proxy(self)  # a cycle would hold what the run trained with after its end
        self.update = Update(
            model,
            method,
            self.optimizer if self.accelerator.scaler is None else self.accelerator.prepare(self.optimizer),
            steps=self.steps,
            micro_batch=settings.micro_batch,
            max_grad_norm=self.recipe.max_grad_norm,
            autocast=settings.autocast,
            accelerator=self.accelerator,
            on_warning=lambda text: here.warn(f"step {here.update.step}: {text}"),
        )
        self.rows: list[dict[str, Any]] = []
        self.evaluations: list[Evaluation] = []
        self.best: dict[str, Tensor] | None = None
        self.best_step = 0
        self.last_saved: Path | None = None

    def to_end(self, on_step: OnStep | None) -> Outcome:
        """Updates, evaluations and checkpoints until the rule stops it or the planned steps are made."""
        self._resume()
        if self.update.step == 0:
            self._evaluate(0)
        while self.update.step < self.steps and not self._stopped():
            losses = self._one()
            step = self.update.step
            last = step == self.steps
            if self.rule is not None and (last or _due(step, self.settings.evaluate_every)):
                self._evaluate(step)
            if self.checkpoints is not None and _due(step, self.settings.checkpoint_every) and not last:
                self._save(step)
            if on_step is not None:
                on_step(step, self.steps, losses)
        if self.best is not None:
            copy_into(self._kept(), self.best, "the best step")
        self._write_metrics()
        best_step = self.best_step if self.rule is not None else self.update.step
        return Outcome(self.update.step, self.steps, self._stopped(), best_step, tuple(self.evaluations))

    def _one(self) -> dict[str, float]:
        step = self.update.step + 1
        rate = self.recipe.learning_rate * learning_rate_factor(
            self.recipe.schedule, step, self.steps, self.recipe.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = {role: self._batch(role, step) for role in self.data}
        began = time.perf_counter()
        self.model.train(self.settings.dropout)
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_of(self.settings.seed, "dropout", step, self.accelerator.process_index))
            losses = self._updated(batches)
        self.model.eval()
        seconds = time.perf_counter() - began
        row = {"loss": losses, "learning_rate": rate, "micro_batch": self.update.micro_batch, "seconds": seconds}
        self.rows.append({"step": step, "kind": "train", **row})
        return losses

    def _updated(self, batches: Mapping[str, Batch]) -> dict[str, float]:
        try:
            return self.update(batches)
        except DivergedError as error:
            self._write_metrics()
            good = "none was saved" if self.last_saved is None else str(self.last_saved)
            raise DivergedError(f"{error}; last good checkpoint: {good}") from None

    def _batch(self, role: str, step: int) -> Batch:
        indices = self.samplers[role].batch(step)
        # Every process takes its share of the batch.
        mine = indices[self.accelerator.process_index :: self.accelerator.num_processes]
        batch = collate(self.data[role], mine, self.settings.pad_id).to(self.accelerator.device)
        return batch.with_reference(self.reference.get(role))

    def _references(self, cache: Path | None) -> dict[str, Tensor]:
        device = self.accelerator.device
        return {
            role: reference_nll(
                self.model,
                self.data[role],
                pad_id=self.settings.pad_id,
                autocast=self.settings.autocast,
                cache=cache,
            ).to(device)
            for role in sorted(self.method.objective.needs_reference)
        }

    def _select(self) -> Weights:
        chosen = self.method.select.of(Weights.of(self.model).trainable())
        for name, tensor in Weights.of(self.model).items():
            if name not in chosen:
                tensor.requires_grad_(False)
        return chosen

    def _kept(self) -> dict[str, Tensor]:
        buffers = {f"buffer:{name}": buffer for name, buffer in self.model.named_buffers()}
        return {**self.trained, **buffers}

    def _stopped(self) -> bool:
        return bool(self.evaluations) and self.evaluations[-1].reached and self.evaluations[-1].step > 0

    def _evaluate(self, step: int) -> None:
        if self.rule is None:
            return
        # One process that stopped where others go on would leave them waiting, whatever rule it is.
        evaluation = Evaluation.from_dict(agreed(self.rule(self.model, step).to_dict()))
        self.rows.append(evaluation.to_dict())
        self._write_metrics()  # whoever watches a long run sees it at each evaluation
        # Step 0 is the model that still knows everything: it is measured, never chosen.
        if step > 0 and all(evaluation.score > other.score for other in self.evaluations if other.step > 0):
            self.best = renewed(self.best, self._kept())
            self.best_step = step
        self.evaluations.append(evaluation)

    def _save(self, step: int) -> None:
        if not self.accelerator.is_main_process or self.checkpoints is None:
            return
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "method": self.method.state_dict(),
            "rule": None if self.rule is None else self.rule.state_dict(),
            "rows": json.dumps(self.rows),
            "best": self.best,
            "best_step": self.best_step,
            "micro_batch": self.update.micro_batch,
        }
        self.last_saved = step_folder(self.checkpoints, step)
        save_checkpoint(self.last_saved, Checkpoint(step, self._kept(), state))
        prune(self.checkpoints, self.settings.keep_checkpoints)
        self._write_metrics()

    def _resume(self) -> None:
        for _, folder in [] if self.checkpoints is None else steps_saved(self.checkpoints):
            try:
                checkpoint = load_checkpoint(folder)
            except IntegrityError as error:
                self.warn(f"{error}; going on from the checkpoint before it")
                continue
            copy_into(self._kept(), checkpoint.weights, folder)
            self.optimizer.load_state_dict(checkpoint.state["optimizer"])
            if self.accelerator.scaler is not None and checkpoint.state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
            self.method.load_state_dict(checkpoint.state["method"])
            if self.rule is not None:
                self.rule.load_state_dict(checkpoint.state["rule"])
            self.best, self.best_step = checkpoint.state["best"], checkpoint.state["best_step"]
            self.rows = json.loads(checkpoint.state["rows"])
            self.evaluations = [Evaluation.from_dict(row) for row in self.rows if row["kind"] == "evaluation"]
            self.update.step, self.last_saved = checkpoint.step, folder
            # Where memory ran out before the cut, so that what follows adds up in the same pieces.
            self.update.micro_batch = checkpoint.state.get("micro_batch", self.settings.micro_batch)
            return

    def _write_metrics(self) -> None:
        if self.metrics is not None and self.accelerator.is_main_process:
            self.metrics.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.metrics, "".join(json.dumps(row) + "\n" for row in self.rows))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def with_settings(method: Method, *, names: str = "*", **changes: Any) -> Method:
    """The method with some of its recipe's fields changed, and with fewer weights that train.

    Args:
        method: the method.
        names: shell patterns of the weights that train, separated by commas; "*" leaves the method's own.
        changes: fields of the recipe; None leaves a field as it is. Epochs without steps take the place of the
            recipe's steps.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if "epochs" in given and "steps" not in given:
        given["steps"] = None
    patterns = tuple(pattern.strip() for pattern in names.split(","))
    select = method.select if patterns == ("*",) else replace(method.select, names=patterns)
    return replace(method, recipe=replace(method.recipe, **given), select=select)
