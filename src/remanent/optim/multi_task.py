"""What optimizers for several tasks share: passes task by task, one rule for the weights that tasks share, heads."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from remanent.core.displacement.ascent import climb
from remanent.core.gradient_rules import GradientRule
from remanent.core.state import State, keep_generators
from remanent.core.weights import Weights, sharded_on
from remanent.errors import InputError, UnsupportedError
from remanent.optim.two_pass import TwoPass, gradients_of, group_of

Closure = Callable[[], Tensor]
Gradients = dict[str, Tensor]
# A loss for each task, of which several are micro-batches whose losses add up; or one pass that returns them all.
Closures = Mapping[str, Closure | Sequence[Closure]] | Callable[[], Mapping[str, Tensor]]


class MultiTask(TwoPass):
    """A base optimizer that steps with one gradient of several tasks.

    Weights of a group with a `task` are that task's head and step with its own gradient; all others are shared, and
    step with what the rule makes of the tasks' gradients.

    Under DistributedDataParallel closures may call its module or parts of it: each pass runs without synchronizing, and
    each task's gradients are averaged over the processes after it, before anything is made of them.

    A subclass writes `_gradients`.

    Args:
        params, base, fields, model, max_grad_norm, options: as `TwoPass` has them.
        rule: makes one gradient of several.
        seed: of all that it draws itself, anew in each step; torch's default generators are left alone.

    Raises InputError for a value out of range, UnsupportedError for sharded weights.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        rule: GradientRule,
        fields: Mapping[str, Any],
        *,
        model: nn.Module | None,
        max_grad_norm: float | None,
        seed: int,
        options: Mapping[str, Any],
    ) -> None:
        if not isinstance(rule, GradientRule):
            raise InputError("rule", rule, "a rule of remanent.core.gradient_rules, such as PCGrad()")
        super().__init__(
            params,
            base,
            {**fields, "task": None},
            model=model,
            perturbation="global",
            same_masks=True,
            max_grad_norm=max_grad_norm,
            options=options,
        )
        self.rule, self.seed = rule, seed
        for name, weight in self._weights().items():
            if sharded_on(weight):
                raise UnsupportedError(f"weight {name} is sharded: gradient rules are of whole gradients")

    def step(self, closures: Closures, scaler: GradScaler | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        """Make one update. Returns each task's loss at w, detached.

        Args:
            closures: task -> function that runs forward on one batch and returns the loss WITH its graph: backward is
                run here. Or task -> several of them, whose losses add up. Or one function that returns task -> loss:
                one forward pass for all tasks, where they share their inputs.
            scaler: scales and unscales; an overflow in any pass skips the step. Call its `update` once afterwards.

        Raises InputError where closures are not as described; the weights are then where they were.
        """
        losses = self.gradients(closures, scaler)
        self.second_step(scaler)
        return losses

    def gradients(  # type: ignore[override]
        self, closures: Closures, scaler: GradScaler | None = None
    ) -> dict[str, Tensor]:
        """Everything of a step but the base optimizer's: leaves its gradient in `.grad`, the weights at w.

        Arguments and result are those of `step`; the gradient that is left is still scaled.
        """
        self._refuse_displaced()
        self._handle = None
        self.zero_grad()
        weights = self._weights()
        passes = Passes(closures, weights, self._heads(weights), scaler, self._averaged)
        try:
            with self._apart():
                gradients = self._gradients(passes)
        except BaseException:
            self.zero_grad()
            raise
        passes.end()
        if scaler is not None:
            torch._foreach_mul_(list(gradients.values()), scaler.get_scale())
        for name, gradient in gradients.items():
            weights[name].grad = gradient
        self._has_gradient = True
        return passes.losses

    def first_step(self, scaler: GradScaler | None = None) -> NoReturn:
        """Raises UnsupportedError: one gradient in `.grad` does not say what each task's is."""
        raise UnsupportedError("several tasks take several gradients: call step or gradients with their closures")

    def _gradients(self, passes: Passes) -> Gradients:
        """The step's gradient by the weight's name, unscaled."""
        raise NotImplementedError

    def _heads(self, weights: Weights) -> dict[str, str]:
        """Name -> task, of the weights that belong to a head."""
        tasks = [group["task"] for group in self.param_groups]
        return {name: tasks[group_of(name)] for name in weights if tasks[group_of(name)] is not None}

    def _generator(self, *what: object, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for something of this step: the same for a step that is made again after a checkpoint."""
        digest = hashlib.sha256("/".join(map(str, (self.seed, self.updates, *what))).encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _averaged(self, gradients: Gradients, task: str | None) -> Gradients:
        """Their mean over the replicas, in place; a weight without a gradient in some of them counts as 0 there."""
        if not isinstance(self.model, DistributedDataParallel):
            return gradients
        weights = self._weights()
        said = zlib.crc32(f"{self.seed}/{self.updates}/{task}".encode())
        device = next(self.model.parameters()).device
        known = torch.tensor([said, -said, *(name in gradients for name in weights)], device=device)
        torch.distributed.all_reduce(known, torch.distributed.ReduceOp.MAX, self.model.process_group)
        highest, lowest, *anywhere = known.tolist()
        if highest != -lowest:
            raise InputError("closures", task, "the same tasks in the same order, and one `seed`, in every process")
        gradients = {
            name: gradients[name] if name in gradients else torch.zeros_like(weight)
            for (name, weight), there in zip(weights.items(), anywhere, strict=True)
            if there
        }
        self._average(gradients.values())
        return gradients

    def _mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Their means over the replicas."""
        if not isinstance(self.model, DistributedDataParallel):
            return dict(numbers)
        device = next(self.model.parameters()).device
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
        self._average([values])
        return dict(zip(numbers, values.tolist(), strict=True))

    @contextmanager
    def _displaceable(self, weights: Weights, names: Iterable[str]) -> Iterator[Callable[[], None]]:
        """Inside, weights may move; the function brings them and buffers back, as the end does. One copy of them."""
        moved = weights.only(name for name in names if self._radius(name) > 0)
        with State.of(weights, moved=moved, gradients_aside=False, learning=True) as state:
            tensors, kept = list(moved.values()), [state.weight(name) for name in moved]

            @torch.no_grad()
            def home() -> None:
                torch._foreach_copy_(tensors, kept)
                state.rewind_buffers()  # the next pass may read running statistics, in eval mode
                torch.clear_autocast_cache()  # an enclosing autocast holds casts of the weights from before

            yield home

    def _radius(self, name: str) -> float:
        radius: float = self.param_groups[group_of(name)]["rho"]
        return radius

    def _climb(self, weights: Weights, gradients: Gradients) -> None:
        """Up one normalized step, with one norm over all that is given."""
        ascents = self._ascents()
        climb(weights, gradients, {name: ascents[group_of(name)] for name in gradients})
        torch.clear_autocast_cache()


class Passes:
    """The passes of one step.

    Args:
        closures: as `MultiTask.step` has them.
        weights: all that trains.
        heads: weight's name -> the task whose head it belongs to.
        scaler: scales the losses; gradients are given out unscaled.
        averaged: given a pass's gradients and its task, their mean over the processes.
    """

    def __init__(
        self,
        closures: Closures,
        weights: Weights,
        heads: Mapping[str, str],
        scaler: GradScaler | None,
        averaged: Callable[[Gradients, str | None], Gradients],
    ) -> None:
        if not callable(closures) and not closures:
            raise InputError("closures", closures, "at least one task")
        self.weights, self.heads = weights, heads
        self.losses: dict[str, Tensor] = {}  # task -> its loss at w
        self._closures, self._scaler, self._averaged = closures, scaler, averaged
        self._begun: dict[str, Callable[[], None]] = {}  # task -> puts the generators back where its first pass began
        self._ended: Callable[[], None] = keep_generators(weights)

    @property
    def tasks(self) -> list[str]:
        """Their names, once there was a first pass."""
        return list(self.losses)

    def here(self) -> tuple[dict[str, Gradients], dict[str, Gradients]]:
        """The first passes: task -> its gradient of the shared weights, and task -> that of its head."""
        shared: dict[str, Gradients] = {}
        heads: dict[str, Gradients] = {}
        if callable(self._closures):
            with torch.enable_grad():
                losses = self._all()
                self._begin(losses)
                for number, (task, loss) in enumerate(losses.items(), start=1):
                    self._backward(loss, retain_graph=number < len(losses))
                    shared[task], heads[task] = self._take(task)
            self._ended = keep_generators(self.weights)
        else:
            for task in self._closures:
                shared[task], heads[task] = self.one_here(task)
        return shared, heads

    @property
    def apart(self) -> Sequence[str]:
        """The tasks that have a pass of their own; none where one closure returns all losses."""
        return () if callable(self._closures) else tuple(self._closures)

    def one_here(self, task: str) -> tuple[Gradients, Gradients]:
        """The first pass of one of the tasks that are apart, which draws what it would right after the last first pass,
        whatever came between."""
        self._ended()
        with torch.enable_grad():
            self._first_pass(task, 1.0)
        self._ended = keep_generators(self.weights)
        return self._take(task)

    def mean_here(self) -> tuple[Gradients, Gradients]:
        """The first passes in one: the gradient of the tasks' mean loss, of shared weights and of all heads."""
        with torch.enable_grad():
            if callable(self._closures):
                losses = self._all()
                self._begin(losses)
                self._backward(torch.stack(list(losses.values())).mean())
            else:
                for task in self._closures:
                    self._first_pass(task, len(self._closures))
        self._ended = keep_generators(self.weights)
        return self._take(None)

    def there(self, task: str) -> tuple[Gradients, Gradients]:
        """A task's gradients where the weights are now, with the random numbers of its first pass."""
        self._begun[task]()
        with torch.enable_grad():
            if callable(self._closures):
                self._backward(self._all()[task])
            else:
                for closure in self._listed(task):
                    self._backward(self._checked(task, closure()))
        return self._take(task)

    @torch.no_grad()
    def look(self, tasks: Sequence[str]) -> dict[str, float]:
        """The losses of some tasks where the weights are now, without a graph, each with the random numbers of its
        first pass; in one pass where one closure returns them all."""
        if callable(self._closures):
            self._begun[tasks[0]]()
            losses = self._closures()
            return {task: float(losses[task]) for task in tasks}
        found = {}
        for task in tasks:
            self._begun[task]()
            found[task] = sum(float(closure()) for closure in self._listed(task))
        return found

    def end(self) -> None:
        """Let torch's generators go on from where the first passes left them."""
        self._ended()

    def _begin(self, losses: Mapping[str, Tensor]) -> None:
        self._begun = dict.fromkeys(losses, self._ended)  # which still is where the step began
        self.losses = {task: loss.detach() for task, loss in losses.items()}

    def _first_pass(self, task: str, divisor: float) -> None:
        self._begun[task] = keep_generators(self.weights)
        for closure in self._listed(task):
            loss = self._checked(task, closure())
            self._backward(loss if divisor == 1 else loss / divisor)
            self.losses[task] = self.losses[task] + loss.detach() if task in self.losses else loss.detach()

    def _all(self) -> Mapping[str, Tensor]:
        assert callable(self._closures)
        losses = self._closures()
        if not isinstance(losses, Mapping) or not losses:
            raise InputError("closures", type(losses).__name__, "a function that returns task -> loss")
        return {task: self._checked(task, loss) for task, loss in losses.items()}

    def _listed(self, task: str) -> Sequence[Closure]:
        assert not callable(self._closures)
        closure = self._closures[task]
        return [closure] if callable(closure) else closure

    def _checked(self, task: str, loss: object) -> Tensor:
        expected = "a loss of one number, with its graph: backward is left to the optimizer"
        if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.grad_fn is None:
            raise InputError(f"closures['{task}']", loss, expected)
        if not self.losses and gradients_of(self.weights):
            raise InputError(f"closures['{task}']", "a loss that backward has been called on", expected)
        return loss.reshape(())

    def _backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        (loss if self._scaler is None else self._scaler.scale(loss)).backward(  # type: ignore[no-untyped-call]
            retain_graph=retain_graph
        )

    def _take(self, task: str | None) -> tuple[Gradients, Gradients]:
        """`.grad` of the shared weights and of the heads, which must be those of the task where one is named."""
        gradients = gradients_of(self.weights)
        for name in gradients:
            self.weights[name].grad = None
        if self._scaler is not None and gradients:
            torch._foreach_mul_(list(gradients.values()), 1.0 / self._scaler.get_scale())
        gradients = self._averaged(gradients, task)
        for name in gradients:  # of all processes, so that all raise
            if task is not None and self.heads.get(name, task) != task:
                expected = f"no path to weight {name}, which belongs to the head of '{self.heads[name]}'"
                raise InputError(f"closures['{task}']", "a loss that reaches another task's head", expected)
        shared = {name: gradient for name, gradient in gradients.items() if name not in self.heads}
        return shared, {name: gradient for name, gradient in gradients.items() if name in self.heads}
