"""Learning with forgetting: while a model learns a task, what it knows that stands against the task is unlearned.

A first fine-tuning gives w*, the optimum of the task, and F, the diagonal of its Fisher information there. A record x
of what the model knows, as it answers itself, would draw the weights from w to w - a g(x); the forgetting confidence

FC(x) = 1/2 * sum_i F_i (w_i - a g_i(x) - w*_i)^2

says how unlikely those weights are under the task. The records of highest confidence are kept, and the fine-tuning
starts again from w: every so many updates one takes a step of ascent on them instead. Not learning WITHOUT forgetting,
which has the same letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.catalogue import System
from remanent.core.decoding import Decoding, Sampled
from remanent.core.displacement import Here
from remanent.core.episode import Episode
from remanent.core.generation import generated
from remanent.core.importance import answer_nll, fisher
from remanent.core.loop import Settings, planned_steps, run_episode
from remanent.core.method import At, Method, Objective, Recipe, Term
from remanent.core.modes import evaluating
from remanent.core.predict import Predict
from remanent.core.sampling import seed_of
from remanent.core.schedule import Every
from remanent.core.scores import answer_scores
from remanent.core.state import State
from remanent.core.task import Task
from remanent.core.weights import Weights
from remanent.errors import InputError

SYSTEM = System(
    name="learning-with-forgetting",
    title="Learning with forgetting: what stands against a task is unlearned while it is learnt",
    year=2025,
    arxiv="2505.19715",
    card="lwf-graceful",
    family="continual",
    reproduction="tests/reproductions/test_learning_with_forgetting.py",
    needs=("task", "forget"),
    notes="No code was published; how many records are kept, how often they are unlearned and a are ours. Ranked by "
    "the difference from the part of FC that is the same for all records. Ascent stands in an update's place, and "
    "shares the optimizer's moments.",
)


_DRAWN = Sampled(1.0, samples=1)  # from the whole distribution


def own_answers(
    model: nn.Module,
    records: Sequence[Encoded],
    *,
    pad_id: int = 0,
    max_new_tokens: int = 48,
    decoding: Decoding = _DRAWN,
    seed: int = 0,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
    on_batch: Callable[[int], None] = lambda records: None,
) -> list[Encoded]:
    """The records with the model's own answers in the place of theirs: what it knows, of which no data is at hand.

    An answer ends with the model's end token, which is scored as the answer is, or after `max_new_tokens`. Records
    that the model answers with nothing are left out.

    Args:
        model: in eval mode meanwhile.
        records: whose prompts are asked: the tokens before the first scored one, or all where none is.
        pad_id: token that fills short prompts.
        max_new_tokens: of an answer.
        decoding: as many answers to each prompt as its `samples`; by default one, drawn from the whole distribution.
        seed: of what is drawn; torch's own generators are given back as they were.
        batch_size: prompts per pass.
        autocast: dtype of the arithmetic.
        on_batch: called after each batch with the number of its prompts.

    Raises InputError for a record that is scored from its first token, and has no prompt.
    """
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stops = {*(ends if isinstance(ends, list) else [ends])}
    prompts = []
    for record in records:
        length = next((place for place, label in enumerate(record.labels) if label != IGNORED), len(record.labels))
        if not length:
            raise InputError(f"record {record.key}", "plain text", "a prompt, which the model can answer")
        prompts.append(record.input_ids[:length])
    found = []
    with evaluating(model):
        for start in range(0, len(prompts), batch_size):
            asked = prompts[start : start + batch_size]
            drawn = seed_of(seed, "own answers", start)
            answers = generated(model, pad_id, asked, max_new_tokens, autocast, decoding, drawn).tolist()
            for place, answer in enumerate(answers):
                if answer[0] in stops:
                    continue
                index = start + place // decoding.samples
                record, prompt = records[index], prompts[index]
                end = next((after for after, token in enumerate(answer) if token in stops), len(answer))
                own = tuple(answer[: end + 1])
                found.append(replace(record, input_ids=prompt + own, labels=(IGNORED,) * len(prompt) + own))
            on_batch(len(asked))
    return found


@dataclass(frozen=True)
class TaskAndAscent(Objective):
    """L_t = token mean NLL of task; L_f = -token mean NLL of forget."""

    terms: ClassVar[Mapping[str, Term]] = {"task": Term("token", ("task",)), "forget": Term("token", ("forget",))}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "task" in batches:
            found["task"] = -predict(batches["task"]).log_probs.sum()
        if "forget" in batches:
            found["forget"] = predict(batches["forget"]).log_probs.sum()
        return found


@dataclass(frozen=True)
class LearningWithForgetting(Method):
    """The composition, which makes its first fine-tuning, and chooses what to unlearn, when it begins.

    Args:
        keep: share of the forget records that is unlearned, above 0 and at most 1.
        step: a, at least 0; 0 takes the learning rate.
        records: of the task, most that the Fisher information is made of.
        seed: of the first fine-tuning's order and dropout.
    """

    keep: float = 0.5
    step: float = 0.0
    records: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, right, expected in (
            ("keep", 0 < self.keep <= 1, "a share above 0 and at most 1"),
            ("step", 0 <= self.step < math.inf, "a finite number of at least 0; 0 takes the learning rate"),
            ("records", self.records >= 1, "at least 1 record"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method on the records of highest confidence, none of which is the task's own. Costs a fine-tuning
        and a copy of the weights."""
        for role in ("task", "forget"):
            if role not in episode.data:
                raise InputError("data", ", ".join(episode.data) or "none", f"records for '{role}'")
        task = list(episode.data["task"])
        taught = {record.input_ids for record in task}
        forget = [record for record in episode.data["forget"] if record.input_ids not in taught]
        if not forget:
            raise InputError("data['forget']", "the task's own records", "others: forgetting them is not learning them")
        count = max(1, round(self.keep * len(forget)))
        order = self.confidences(model, task, forget).argsort(descending=True, stable=True)
        kept = sorted(order[:count].tolist())
        return replace(self, narrowed={"forget": [forget[index] for index in kept]})

    def passes_beforehand(self, sizes: Mapping[str, int]) -> int:
        """The first fine-tuning, the records that the Fisher information is made of, and every forget record."""
        task = sizes["task"]
        first = planned_steps(self.recipe, task) * min(self.recipe.batch_size, task)
        return first + min(task, self.records) + sizes["forget"]

    def confidences(self, model: nn.Module, task: Sequence[Encoded], forget: Sequence[Encoded]) -> Tensor:
        """What ranks records as FC does: float64, (records of forget,). The model is given back as it was."""
        weights = self.select.of(Weights.of(model).trainable())
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        first = Method(Task(), select=self.select, recipe=self.recipe)
        training = model.training
        try:
            run_episode(model, first, Episode("first", "teach", {"task": task}), Settings(0, self.seed))
            chosen = [
                task[index * len(task) // min(len(task), self.records)] for index in range(min(len(task), self.records))
            ]
            importance = fisher(model, _batches(model, chosen), answer_nll, weights=weights)
            apart = {
                name: start[name].to(part.dtype) - weights[name].detach().to(part.dtype)
                for name, part in importance.items()
            }
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(start[name])
            model.train(training)
        return forgetting_confidences(model, forget, weights, importance, apart, self.step or self.recipe.learning_rate)


def forgetting_confidences(
    model: nn.Module,
    records: Sequence[Encoded],
    weights: Weights,
    importance: Mapping[str, Tensor],
    apart: Mapping[str, Tensor],
    step: float,
) -> Tensor:
    """(FC(x) - FC of no step) / a = -<F (w - w*), g(x)> + a / 2 <F, g(x)^2>: float64, (records,).

    The part of FC that all records share is a sum over all weights, beside which their differences vanish. g is the
    gradient of the record's mean token NLL, in eval mode, one record at a time, so that long answers do not count more.

    Args:
        model: at w; given back as it was.
        records: x.
        weights: those that train.
        importance: name -> F.
        apart: name -> w - w*, in F's dtype.
        step: a, at least 0.
    """
    everything = Weights.of(model)
    drawn = {name: importance[name] * apart[name] for name in weights}
    found = []
    aside = State.of(everything, moved=everything.only(()), gradients_aside=True)
    with aside, evaluating(model), torch.enable_grad():
        for batch in _batches(model, records, size=1):
            loss = -answer_scores(model, batch).log_probs.mean()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            total = 0.0
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    wide = gradient.to(drawn[name].dtype)
                    part = (importance[name] * wide).mul_(step / 2).sub_(drawn[name]).mul_(wide)
                    total += float(part.sum(dtype=torch.float64))
            found.append(total)
    return torch.tensor(found, dtype=torch.float64)


def _batches(model: nn.Module, records: Sequence[Encoded], size: int = 8) -> Iterator[Batch]:
    device: Any = next(model.parameters()).device
    for start in range(0, len(records), size):
        yield collate(records, range(start, min(start + size, len(records))), 0).to(device)


def method(
    interval: int = 10,
    keep: float = 0.5,
    step: float = 0.0,
    forget_weight: float = 1.0,
    task_weight: float = 1.0,
) -> Method:
    """Learning with forgetting on plain teaching. The paper's own values were not published.

    Args:
        interval: N_u, every so many updates one unlearns; at least 2.
        keep: share of the forget records that is unlearned.
        step: a, the length of the step that a record would draw; 0 takes the learning rate.
        forget_weight: of the ascent.
        task_weight: of the task.
    """
    return LearningWithForgetting(
        TaskAndAscent(),
        points=[At(Here(), ("task",), Every(interval, others=True)), At(Here(), ("forget",), Every(interval))],
        weights={"task": task_weight, "forget": forget_weight},
        recipe=Recipe(learning_rate=5e-5, epochs=12, batch_size=8),
        keep=keep,
        step=step,
    )
