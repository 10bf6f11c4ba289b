"""What a callback alone can do in transformers.Trainer: evaluate, stop, keep the best step, and tell a method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from remanent.core.checkpoint import Checkpoint, copy_into, load_checkpoint, renewed, save_checkpoint
from remanent.core.displacement import Here
from remanent.core.episode import Episode
from remanent.core.evaluation import Evaluation
from remanent.core.loop import Rule
from remanent.core.method import Method, check_judged
from remanent.core.processes import agreed
from remanent.core.selection import EVERYTHING
from remanent.core.task import Task
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError

# Beside Trainer's own files in each of its checkpoints.
STATE = "remanent_callback"


class RemanentCallback(TrainerCallback):
    """Evaluates by a rule, stops the run when it says so, and leaves the best step's weights in the model.

    For any Trainer. A callback has no batch and no second forward pass, so the losses stay the Trainer's own: a
    method may only say what happens around them (`begin`, `after_update`, `end`). The weights of the best step are in
    the model when `train()` returns, as the loop has them: of the steps evaluated after an update the first with the
    highest score, also after `resume_from_checkpoint`. Save it then; Trainer's own checkpoints hold the step that they
    are named after. Evaluations are also written to the state's log history.

    Args:
        rule: evaluates, says which step is best and when to stop; None leaves that to Trainer.
        evaluate_every: updates between evaluations; 0 evaluates before the first and after the last only.
        method: with the plain `Task` objective and nothing besides lifecycle calls.
        episode: what the method is told of the run.

    Raises:
        InputError: where it is given neither a rule nor a method, or only one of method and episode, or a rule for a
            method that makes its model at the end.
        UnsupportedError: for a method that needs `MethodTrainer`.
    """

    def __init__(
        self,
        rule: Rule | None = None,
        *,
        evaluate_every: int = 10,
        method: Method | None = None,
        episode: Episode | None = None,
    ) -> None:
        if rule is None and method is None:
            raise InputError("rule", None, "a rule, or a method and its episode")
        if (method is None) != (episode is None):
            raise InputError("episode", episode, "an episode exactly where there is a method")
        if method is not None:
            _check(method, rule)
        self.rule, self.evaluate_every, self.method, self.episode = rule, evaluate_every, method, episode
        self.evaluations: list[Evaluation] = []
        self.best_step = 0
        self._best: dict[str, Tensor] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Evaluate the model as it is, or go on from what the checkpoint holds."""
        model: nn.Module = rest["model"]
        self.evaluations, self.best_step, self._best = [], 0, None
        if self.method is not None and self.episode is not None:
            self.method = self.method.begin(model, self.episode)
            if self.method is None:
                raise UnsupportedError("a callback cannot skip an episode; ask the method's begin() before train()")
            if self.method.narrowed:
                raise UnsupportedError("a callback cannot leave out records of Trainer's own data; use MethodTrainer")
            _check(self.method, self.rule)
        if state.global_step > 0:
            self._take_up(_folder(args, state))
        elif self.rule is not None:
            self._evaluate(model, state)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Tell the method."""
        model: nn.Module = rest["model"]
        if self.method is not None:
            self.method.after_update(model, state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Evaluate where it is due, and stop where the rule is met."""
        model: nn.Module = rest["model"]
        if self._met():
            # Resumed from a checkpoint that was written when the rule was met: Trainer makes an update before it asks.
            control.should_training_stop = True
            return
        due = self.evaluate_every > 0 and state.global_step % self.evaluate_every == 0
        if self.rule is None or not (due or state.global_step >= state.max_steps):
            return
        evaluation = self._evaluate(model, state)
        if all(evaluation.score > other.score for other in self.evaluations[:-1] if other.step > 0):
            self._best = renewed(self._best, _kept(model))
            self.best_step = state.global_step
        if self._met():
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Put what a resumed run needs beside Trainer's own files."""
        if not state.is_world_process_zero:
            return
        saved = {
            "rule": None if self.rule is None else self.rule.state_dict(),
            "method": None if self.method is None else self.method.state_dict(),
            "evaluations": [evaluation.to_dict() for evaluation in self.evaluations],
            "best": self._best,
            "best_step": self.best_step,
        }
        save_checkpoint(_folder(args, state), Checkpoint(state.global_step, {}, saved))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Put the best step's weights into the model, and end the episode."""
        model: nn.Module = rest["model"]
        if self._best is not None:
            copy_into(_kept(model), self._best, "the best step")
        if self.method is not None and self.episode is not None:
            self.method.end(model, self.episode)

    def _met(self) -> bool:
        return bool(self.evaluations) and self.evaluations[-1].reached and self.evaluations[-1].step > 0

    def _evaluate(self, model: nn.Module, state: TrainerState) -> Evaluation:
        assert self.rule is not None
        # One process that stopped where others go on would leave them waiting, whatever rule it is.
        evaluation = Evaluation.from_dict(agreed(self.rule(model, state.global_step).to_dict()))
        self.evaluations.append(evaluation)
        row: dict[str, Any] = {
            f"eval_{name}@{point}": nll for point, sets in evaluation.nll.items() for name, nll in sets.items()
        }
        state.log_history.append({**row, "eval_reached": evaluation.reached, "step": state.global_step})
        return evaluation

    def _take_up(self, folder: Path) -> None:
        state = load_checkpoint(folder).state
        if self.rule is not None:
            self.rule.load_state_dict(state["rule"])
        if self.method is not None:
            self.method.load_state_dict(state["method"])
        self.evaluations = [Evaluation.from_dict(row) for row in state["evaluations"]]
        self._best, self.best_step = state["best"], state["best_step"]


def _kept(model: nn.Module) -> dict[str, Tensor]:
    buffers: Mapping[str, torch.Tensor] = {f"buffer:{name}": buffer for name, buffer in model.named_buffers()}
    return {**Weights.of(model).trainable(), **buffers}


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    assert args.output_dir is not None  # TrainingArguments gives itself one
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE


def _check(method: Method, rule: Rule | None) -> None:
    check_judged(method, rule)
    _refuse_updates(method)


def _refuse_updates(method: Method) -> None:
    """Raise where a method's updates are its own, which a callback cannot make."""
    wants = []
    if not isinstance(method.objective, Task):
        wants.append(f"the objective {type(method.objective).__name__}")
    wants += [f"the point {place.displacement}" for place in method.places if not isinstance(place.displacement, Here)]
    for field in ("combine", "pull"):
        if getattr(method, field) is not None:
            wants.append(field)
    if method.select != EVERYTHING:
        wants.append("a selection")
    if wants:
        raise UnsupportedError(
            f"a callback has no batch and no second forward pass, and this method needs {', '.join(wants)}: "
            "use remanent.hf.trainer.MethodTrainer"
        )
