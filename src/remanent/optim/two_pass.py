"""What optimizers share that take their gradient at another point: forward and backward there, step here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from remanent.core.displacement import Ascent
from remanent.core.displacement.ascent import climb
from remanent.core.state import State, keep_generators
from remanent.core.weights import Weights, norm, sharded_on
from remanent.errors import InputError, UnsupportedError

Closure = Callable[[], Tensor]
Perturbation = Literal["replica", "global"]
# Where the passes of one step are run: only at w, at w and then at w + e, only at a w + e that is known already.
Passes = Literal["here", "both", "there"]

_PASSES = "passes"


class TwoPass(Optimizer):
    """A base optimizer that steps at w with a gradient from w + e.

    Weights come back by copy, bit for bit, also when the closure raises. A step whose gradient is not finite, at either
    point, moves nothing and is counted in `skipped`. Param groups, `state` and `state_dict` are the base optimizer's,
    so schedulers and checkpoints work as they do for the base; what an optimizer of this kind keeps besides is in
    `state_dict` too.

    A subclass says what it does otherwise: `_plan` (which passes this step takes), `_displace` (where to), `_ascents`
    (each group's climb), `_combine` (the gradients of both points to one; `keeps_first`).

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer; called with the groups and `options`.
        fields: what each group has besides the base's options, with its default.
        model, perturbation, same_masks, max_grad_norm: as `SAM` has them.
        options: of the base optimizer.

    Raises InputError for a value out of range.
    """

    keeps_first = False  # whether `_combine` asks for the first gradient: one more copy of it

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        fields: Mapping[str, Any],
        *,
        model: nn.Module | None,
        perturbation: Perturbation,
        same_masks: bool,
        max_grad_norm: float | None,
        options: Mapping[str, Any],
    ) -> None:
        if perturbation not in ("replica", "global"):
            raise InputError("perturbation", perturbation, "'replica' or 'global'")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise InputError("max_grad_norm", max_grad_norm, "a number above 0, or None")
        super().__init__(params, dict(fields))
        if model is None and any(sharded_on(weight) for group in self.param_groups for weight in group["params"]):
            expected = "the model whose weights are sharded: a pass without a backward pass holds them gathered"
            raise InputError("model", None, expected)
        self._fields = dict(fields)
        self.model, self.perturbation, self.same_masks = model, perturbation, same_masks
        self.max_grad_norm = max_grad_norm
        self.base = base(self.param_groups, **options)
        self.defaults |= self.base.defaults
        self._share()
        self.skipped = 0
        self.updates = 0  # begun so far, those that were skipped too
        self.kept: dict[str, Tensor] = {}  # what a later step needs of an earlier one, by the weight's name
        self._handle: Weights | None = None
        self._displaced: State | None = None
        self._first: dict[str, Tensor] | None = None
        self._has_gradient = self._to_combine = False
        self._ascents()
        for group in self.param_groups:
            if any(weight.dtype in (torch.bfloat16, torch.float16) for weight in group["params"] if group.get("rho")):
                text = "weights in 16 bits swallow most of a step of length rho; keep them in float32 under autocast"
                warnings.warn(text, stacklevel=3)
                break

    def step(  # type: ignore[override]
        self, closure: Closure | None = None, scaler: GradScaler | None = None, **passes: Any
    ) -> Tensor | None:
        """Make one update. Returns the loss at w, as the closure gave it.

        Args:
            closure: as `gradients` calls it. None only after `gradients` or `first_step`: the same as `second_step`.
            scaler: unscales; an overflow in either pass skips the step. Call its `update` once afterwards.
            passes: further arguments of `gradients`.

        Raises InputError where there is no closure.
        """
        if closure is None and not self._has_gradient:
            expected = "a function that runs forward and backward on one batch and returns the loss; "
            expected += "in transformers.Trainer use remanent.hf.two_pass.TwoPassTrainer"
            raise InputError("closure", None, expected)
        loss = None if closure is None else self.gradients(closure, scaler, **passes)
        self.second_step(scaler)
        return loss

    def gradients(self, closure: Closure, scaler: GradScaler | None = None, *, ascent: Closure | None = None) -> Tensor:
        """Everything of a step but the base optimizer's: leaves its gradient in `.grad`, the weights at w.

        Args:
            closure: runs forward and backward on one batch, or on several micro-batches whose gradients add up, and
                returns the loss; called once for each pass, with gradients cleared before. Under `scaler` it scales
                the loss before backward, and the gradient that is left is still scaled.
            scaler: that of `step`.
            ascent: in place of `closure` in the first pass of a step that takes two: on a part of the batch, e costs
                less. The loss that is returned is then that of the part.

        Returns the loss at w; of a step with a single pass, the loss where that was.
        """
        self._refuse_displaced()
        self._handle = None
        self.zero_grad()
        plan, loss = self._plan(), None
        rewind = keep_generators(self._weights()) if self.same_masks and plan == "both" else None
        if plan != "there":
            both = plan == "both"
            with self._unsynchronized() if both else nullcontext(), torch.enable_grad():
                loss = ascent() if both and ascent is not None else closure()
        if self.first_step(scaler):
            try:
                if rewind is not None:
                    rewind()
                # Where both gradients are combined, that comes before the mean over processes.
                with self._unsynchronized() if self._first is not None else nullcontext(), torch.enable_grad():
                    there = closure()
            except BaseException:
                self.restore()
                raise
            loss = there if loss is None else loss
        self._finish(scaler)
        return loss.detach() if isinstance(loss, Tensor) else loss  # type: ignore[return-value]

    @torch.no_grad()
    def first_step(self, scaler: GradScaler | None = None) -> bool:
        """Move to w + e, by the gradient at w that is in `.grad`, and clear it.

        Returns False, and stays, where there is no second pass: the gradient that `second_step` uses, or skips because
        it is not finite, is in `.grad` already.
        """
        self._refuse_displaced()
        self._has_gradient = self._to_combine = True
        plan = self._plan()
        if plan == "here":
            return False
        weights = self._weights()
        if plan == "there":
            self.zero_grad()
        gradients = gradients_of(weights)
        if scaler is not None and gradients:
            torch._foreach_mul_(list(gradients.values()), 1.0 / scaler.get_scale())
        moved = weights.only(self._moving(weights, gradients))
        state = State.of(weights, moved=moved, gradients_aside=False, learning=True, keep_buffers=plan == "there")
        self._displaced = state.__enter__()
        try:
            finite = self._everywhere(math.isfinite(self._displace(weights, gradients)))
        except BaseException:
            self.restore()
            raise
        if not finite:
            self._come_back()
            self._to_combine = False
            for gradient in gradients.values():  # other processes' overflow too must be seen by this one's scaler
                gradient.fill_(math.nan)
            return False
        if self.keeps_first and plan == "both":
            # Buckets of DistributedDataParallel would be written over by the second pass.
            shared = getattr(self.model, "gradient_as_bucket_view", False)
            self._first = {name: gradient.clone() if shared else gradient for name, gradient in gradients.items()}
        self.zero_grad()
        torch.clear_autocast_cache()  # an enclosing autocast holds casts of the weights from before
        return True

    @torch.no_grad()
    def second_step(self, scaler: GradScaler | None = None) -> None:
        """Back to w; unscale, clip, and step the base optimizer with the gradient that is in `.grad`."""
        if not self._has_gradient:
            raise UnsupportedError("second_step has no gradient to step with: call first_step before it")
        self._finish(scaler)
        self._has_gradient = False
        self.updates += 1
        if scaler is not None:
            scaler.unscale_(self.base)
        gradients = list(gradients_of(self._weights()).values())
        self._handle = None
        length = float(norm(gradients))
        if not math.isfinite(length):
            self.skipped += 1
            return
        if self.max_grad_norm is not None and length > self.max_grad_norm:
            torch._foreach_mul_(gradients, self.max_grad_norm / length)
        if scaler is None:
            self.base.step()
        else:
            scaler.step(self.base)

    def restore(self) -> None:
        """Back to w, bit for bit, without a step; for a loop of your own that fails between the passes."""
        self._has_gradient = self._to_combine = False
        self._first = self._handle = None
        self._come_back()

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's, its groups with the fields of this one, and what this one keeps between steps.

        Raises between the passes.
        """
        self._refuse_displaced()
        return {**self.base.state_dict(), _PASSES: {"updates": self.updates, "kept": dict(self.kept)}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; of a plain base optimizer's too. Raises between the passes."""
        self._refuse_displaced()
        given = dict(state_dict)
        own = given.pop(_PASSES, {"updates": 0, "kept": {}})
        self.base.load_state_dict(given)
        self._share()
        for group in self.param_groups:
            for name, value in self._fields.items():
                group.setdefault(name, value)
        self._handle = None
        weights = self._weights()
        self.updates = own["updates"]
        self.kept = {name: value.to(weights[name].device, copy=True) for name, value in own["kept"].items()}

    # What a subclass may do otherwise

    def _plan(self) -> Passes:
        return "here" if all(ascent.rho == 0 for ascent in self._ascents()) else "both"

    def _ascents(self) -> list[Ascent]:
        """One for each group."""
        return [Ascent(g["rho"], adaptive=g["adaptive"], eta=g["eta"]) for g in self.param_groups]

    def _moving(self, weights: Weights, gradients: Mapping[str, Tensor]) -> list[str]:
        """The names of what `_displace` will move, and of nothing else: each is copied before."""
        radii = [ascent.rho for ascent in self._ascents()]
        return [name for name in gradients if radii[group_of(name)] > 0]

    def _displace(self, weights: Weights, gradients: Mapping[str, Tensor]) -> float:
        """Move to w + e. Returns a number that is not finite where the gradient is not."""
        ascents = self._ascents()
        return climb(weights, gradients, {name: ascents[group_of(name)] for name in gradients})

    def _combine(self, first: Mapping[str, Tensor] | None, gradients: Mapping[str, Tensor]) -> None:
        """Change, in place, the gradient that the base optimizer will see.

        Args:
            first: with `keeps_first` the gradient at w, scaled as the other is; None after a single pass.
            gradients: of the last pass: `.grad`.
        """

    # The rest

    def _finish(self, scaler: GradScaler | None) -> None:
        """Back to w, with the step's gradient in `.grad`; nothing where that has been done."""
        self._come_back()
        if not self._to_combine:
            return
        self._to_combine = False
        first, self._first = self._first, None
        gradients = gradients_of(self._weights())
        with torch.no_grad():
            if first is not None and scaler is not None:
                torch._foreach_mul_(list(first.values()), scaler.get_scale())
            self._combine(first, gradients)
            if first is not None and self.perturbation == "replica":
                self._average(gradients.values())

    def _come_back(self) -> None:
        displaced, self._displaced = self._displaced, None
        if displaced is not None:
            displaced.__exit__(None, None, None)

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def _refuse_displaced(self) -> None:
        if self._displaced is not None:
            raise UnsupportedError("the weights are at w + e: call second_step or restore first")

    def _weights(self) -> Weights:
        """One handle for a whole step; the next step makes its own."""
        if self._handle is None:
            self._handle = Weights(Weights.of(self.param_groups), model=self.model)
        return self._handle

    def _unsynchronized(self) -> AbstractContextManager[None]:
        return nullcontext() if self.perturbation == "global" else self._apart()

    def _apart(self) -> AbstractContextManager[None]:
        """Inside the block each process keeps its own gradients."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return nullcontext()
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        sharded = any(sharded_on(weight) for weight in self._weights().values())
        if torch.distributed.get_world_size() > 1 and not sharded:
            given = None if self.model is None else type(self.model).__name__
            expected = "the DistributedDataParallel model"
            if self.perturbation == "replica":
                expected += ", for a perturbation per replica, or perturbation='global'"
            raise InputError("model", given, expected)
        return nullcontext()

    def _everywhere(self, finite: bool) -> bool:
        """Whether it holds in every process, so that none waits in the second pass for one that skips it."""
        if not isinstance(self.model, DistributedDataParallel):
            return finite
        flag = torch.tensor(float(finite), device=next(self.model.parameters()).device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN, self.model.process_group)
        return bool(flag)

    def _average(self, tensors: Iterable[Tensor]) -> None:
        """Their mean over the replicas, in place."""
        if not isinstance(self.model, DistributedDataParallel):
            return
        group = self.model.process_group
        for tensor in tensors:
            torch.distributed.all_reduce(tensor, group=group)
            tensor.div_(torch.distributed.get_world_size(group))


def gradients_of(weights: Weights) -> dict[str, Tensor]:
    """`.grad` of the weights that have one."""
    return {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def group_of(name: str) -> int:
    """The number of the param group of a weight of `Weights.of(param_groups)`."""
    return int(name.partition(".")[0])
