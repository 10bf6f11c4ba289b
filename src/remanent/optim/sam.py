"""SAM: the gradient of the worst point within a radius, taken to first order, in place of the gradient here.

e = rho * g / ||g||, g the gradient at w; the base optimizer steps at w with the gradient at w + e. Adaptive (ASAM):
e = rho * T^2 g / ||T g||, T = |w| + eta elementwise.
"""

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

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent
from remanent.core.displacement.ascent import climb
from remanent.core.state import State, keep_generators
from remanent.core.weights import Weights, norm, sharded_on
from remanent.errors import InputError, UnsupportedError

SYSTEM = System(
    name="sam",
    title="Sharpness-aware minimization, also adaptive (ASAM), round any base optimizer",
    year=2020,
    arxiv="2010.01412",
    card="sam-family",
    family="optim",
    reproduction="tests/reproductions/test_sam.py",
    notes="e follows from the loss alone, without the weight decay that JAX's SAM adds to it; T is |w| + eta for "
    "every weight, biases too.",
)

Closure = Callable[[], Tensor]


class SAM(Optimizer):
    """Sharpness-aware minimization round a base optimizer.

    `step(closure)` runs the closure at w and at w + e. e is detached; the gradient's norm is one number, in at least
    float32, over every weight that has a gradient, in all groups. Weights come back by copy, bit for bit, also when
    the closure raises. A step whose gradient is not finite, at either point, moves nothing and is counted in `skipped`.
    A rho of 0 is the base optimizer, in one pass. Memory beyond the base optimizer's: one copy of what moves.

    Param groups, `state` and `state_dict` are the base optimizer's, each group with its own `rho`, `adaptive` and
    `eta`, so schedulers and checkpoints work as they do for the base.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer: `torch.optim.AdamW`, for example. Called with the groups and `options`.
        rho: radius, at least 0.
        adaptive: measure the radius relative to the weights (ASAM).
        eta: added to |w| when adaptive, at least 0.
        model: the model. With it, batch norm's running statistics are those of the first pass alone. Under
            DistributedDataParallel, the wrapped model.
        perturbation: "replica": under DistributedDataParallel each process climbs the loss of its own records, without
            synchronizing gradients in the first pass. "global": all climb the mean loss. Sharded weights are global.
        same_masks: both passes of `step` draw the same random numbers, such as dropout's masks.
        max_grad_norm: clips the L2 norm of the second gradient; None does not clip.
        options: of the base optimizer.

    Raises InputError for a value out of range.

    Source: arXiv 2010.01412, equations 2 and 3; ASAM, arXiv 2102.11600, equation 5.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.0,
        model: nn.Module | None = None,
        perturbation: Literal["replica", "global"] = "replica",
        same_masks: bool = True,
        max_grad_norm: float | None = None,
        **options: Any,
    ) -> None:
        if perturbation not in ("replica", "global"):
            raise InputError("perturbation", perturbation, "'replica' or 'global'")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise InputError("max_grad_norm", max_grad_norm, "a number above 0, or None")
        super().__init__(params, {"rho": rho, "adaptive": adaptive, "eta": eta})
        self.model, self.perturbation, self.same_masks = model, perturbation, same_masks
        self.max_grad_norm = max_grad_norm
        self.base = base(self.param_groups, **options)
        self.defaults |= self.base.defaults
        self._share()
        self.skipped = 0
        self._displaced: State | None = None
        self._has_second_gradient = False
        for group in self.param_groups:
            _ascent(group)
            if any(weight.dtype in (torch.bfloat16, torch.float16) for weight in group["params"] if group["rho"] > 0):
                text = "weights in 16 bits swallow most of a step of length rho; keep them in float32 under autocast"
                warnings.warn(text, stacklevel=2)
                break

    def step(self, closure: Closure | None = None, scaler: GradScaler | None = None) -> Tensor | None:  # type: ignore[override]
        """Make one update. Returns the loss at w, as the closure gave it.

        Args:
            closure: runs forward and backward on one batch, or on several micro-batches whose gradients add up, and
                returns the loss; called twice, with gradients cleared before. Under `scaler` it scales the loss before
                backward. None only after `gradients` or `first_step`: the same as `second_step`.
            scaler: unscales; an overflow in either pass skips the step. Call its `update` once afterwards.

        Raises InputError where there is no closure.
        """
        if closure is None and not self._has_second_gradient:
            expected = "a function that runs forward and backward on one batch and returns the loss; "
            expected += "in transformers.Trainer use remanent.hf.two_pass.TwoPassTrainer"
            raise InputError("closure", None, expected)
        loss = None if closure is None else self.gradients(closure, scaler)
        self.second_step(scaler)
        return loss

    def gradients(self, closure: Closure, scaler: GradScaler | None = None) -> Tensor:
        """Everything of a step but the base optimizer's: leaves the gradient at w + e in `.grad`, the weights at w.

        Arguments and result are those of `step`; the gradient that is left is still scaled.
        """
        self.zero_grad()
        flat = all(group["rho"] == 0 for group in self.param_groups)
        rewind = keep_generators(self._weights()) if self.same_masks and not flat else None
        with nullcontext() if flat else self._unsynchronized(), torch.enable_grad():
            loss = closure()
        if flat:
            self._has_second_gradient = True
        elif self.first_step(scaler):
            try:
                if rewind is not None:
                    rewind()
                with torch.enable_grad():
                    closure()
            except BaseException:
                self.restore()
                raise
            self._come_back()
        return loss.detach() if isinstance(loss, Tensor) else loss

    @torch.no_grad()
    def first_step(self, scaler: GradScaler | None = None) -> bool:
        """Move to w + e, by the gradient at w that is in `.grad`, and clear it.

        Returns False, and stays, where the gradient is not finite: it is left in `.grad`, for `second_step` to skip.
        """
        self._refuse_displaced()
        weights = self._weights()
        ascents = {
            name: ascent
            for number, ascent in enumerate(map(_ascent, self.param_groups))
            for name in weights
            if name.startswith(f"{number}.")
        }
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        if scaler is not None:
            torch._foreach_mul_(list(gradients.values()), 1.0 / scaler.get_scale())
        moved = weights.only(name for name in gradients if ascents[name].rho > 0)
        self._displaced = State.of(weights, moved=moved, gradients_aside=False, learning=True).__enter__()
        self._has_second_gradient = True
        try:
            finite = self._everywhere(math.isfinite(climb(weights, gradients, ascents)))
        except BaseException:
            self.restore()
            raise
        if not finite:
            self._come_back()
            for gradient in gradients.values():  # other processes' overflow too must be seen by this one's scaler
                gradient.fill_(math.nan)
            return False
        self.zero_grad()
        torch.clear_autocast_cache()  # an enclosing autocast holds casts of the weights from before
        return True

    @torch.no_grad()
    def second_step(self, scaler: GradScaler | None = None) -> None:
        """Back to w; unscale, clip, and step the base optimizer with the gradient at w + e that is in `.grad`."""
        if not self._has_second_gradient:
            raise UnsupportedError("second_step has no gradient at w + e to step with: call first_step before it")
        self._come_back()
        self._has_second_gradient = False
        if scaler is not None:
            scaler.unscale_(self.base)
        gradients = [weight.grad for weight in self._weights().values() if weight.grad is not None]
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
        self._has_second_gradient = False
        self._come_back()

    def _come_back(self) -> None:
        displaced, self._displaced = self._displaced, None
        if displaced is not None:
            displaced.__exit__(None, None, None)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's, its groups with `rho`, `adaptive` and `eta`. Raises between the passes."""
        self._refuse_displaced()
        return self.base.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; of a plain base optimizer's too. Raises between the passes."""
        self._refuse_displaced()
        self.base.load_state_dict(dict(state_dict))
        self._share()
        for group in self.param_groups:
            for name in ("rho", "adaptive", "eta"):
                group.setdefault(name, self.defaults[name])

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def _refuse_displaced(self) -> None:
        if self._displaced is not None:
            raise UnsupportedError("the weights are at w + e: call second_step or restore first")

    def _weights(self) -> Weights:
        return Weights(Weights.of(self.param_groups), model=self.model)

    def _unsynchronized(self) -> AbstractContextManager[None]:
        alone = not torch.distributed.is_available() or not torch.distributed.is_initialized()
        if alone or self.perturbation == "global":
            return nullcontext()
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        sharded = any(sharded_on(weight) for weight in self._weights().values())
        if torch.distributed.get_world_size() > 1 and not sharded:
            given = None if self.model is None else type(self.model).__name__
            expected = "the DistributedDataParallel model, for a perturbation per replica, or perturbation='global'"
            raise InputError("model", given, expected)
        return nullcontext()

    def _everywhere(self, finite: bool) -> bool:
        """Whether it holds in every process, so that none waits in the second pass for one that skips it."""
        if not isinstance(self.model, DistributedDataParallel):
            return finite
        flag = torch.tensor(float(finite), device=next(self.model.parameters()).device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN, self.model.process_group)
        return bool(flag)


def _ascent(group: Mapping[str, Any]) -> Ascent:
    return Ascent(group["rho"], adaptive=group["adaptive"], eta=group["eta"])
