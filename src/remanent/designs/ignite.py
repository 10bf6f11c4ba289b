"""IGNITE: a surrogate whose mean prediction hardly moves when its weights do.

L(w) + lambda * rho * ||grad h(w)||, h the signed mean prediction on a batch; the term's gradient is the difference
lambda * (rho / r) * (grad h(w + r a / ||a||) - a), a = grad h(w). lambda rises where rho ||a|| exceeds epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent
from remanent.core.displacement.ascent import climb
from remanent.core.displacement.gradients import loss_and_gradients
from remanent.core.state import State
from remanent.core.weights import Weights, norm
from remanent.errors import DivergedError, InputError

SYSTEM = System(
    name="ignite",
    title="A surrogate for offline optimization whose mean prediction has a small gradient in the weights",
    year=2024,
    arxiv="2503.04242",
    card="ignite",
    family="designs",
    reproduction="tests/reproductions/test_ignite.py",
    needs=("designs with scores",),
    notes="lambda stays at least 0 by default, as the stated inequality asks; the released code lets it turn negative, "
    "where the term raises the gradient. Weights come back by copy, and both passes of the term share their masks.",
)

Closure = Callable[[], Tensor]


class IGNITE:
    """The regularizer round a base optimizer, for one surrogate.

    A step takes the loss's gradient at w, adds the term's, and steps the base optimizer. The term's two gradients are
    of the mean prediction alone, at w and at distance `radius` along its own gradient; nothing is differentiated twice.
    They draw the same random numbers, leave running statistics and generators as they were, and weights come back bit
    for bit. Weights on which the mean prediction does not depend get the loss's gradient only. A coefficient of 0 that
    stays 0 (`eta` 0) is the base optimizer bit for bit, in one pass; otherwise a step takes three.

    Args:
        base: the optimizer of the surrogate's weights.
        coefficient: lambda at the start.
        eta: step of lambda, at least 0; 0 keeps it fixed (the paper's IGNITE-2, with `coefficient` 0.01, `rho` 0.2).
        rho: radius within which the surrogate's sharpness is measured, above 0.
        radius: r, distance of the second point, above 0; None is `rho`.
        epsilon: sharpness allowed, rho ||grad h||, at least 0.
        nonnegative: keep lambda at least 0; False is the released code.
        model: the surrogate: its running statistics are then not touched by the term.

    Raises InputError for a value out of range.

    Source: arXiv 2503.04242; official code (cuong-dm/IGNITE), gradient_ascent_IGNITE/trainers.py.
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        coefficient: float = 1e-3,
        eta: float = 1e-3,
        rho: float = 0.05,
        radius: float | None = None,
        epsilon: float = 0.1,
        nonnegative: bool = True,
        model: nn.Module | None = None,
    ) -> None:
        for name, value in (("rho", rho), ("radius", rho if radius is None else radius)):
            if not value > 0:
                raise InputError(name, value, "a number above 0")
        for name, value in (("eta", eta), ("epsilon", epsilon)):
            if not value >= 0:
                raise InputError(name, value, "a number of at least 0")
        if not math.isfinite(coefficient) or (nonnegative and coefficient < 0):
            raise InputError("coefficient", coefficient, "a number of at least 0, or any number without `nonnegative`")
        self.base, self.model, self.nonnegative = base, model, nonnegative
        self.coefficient, self.eta, self.rho, self.epsilon = coefficient, eta, rho, epsilon
        self.radius = rho if radius is None else radius
        self.norm = math.nan  # ||grad h|| at the last step that measured it

    def step(self, loss: Closure, prediction: Closure) -> Tensor:
        """Make one update. Returns the loss at w, detached.

        Args:
            loss: runs forward and backward, and returns the loss; called once, with gradients cleared before.
            prediction: returns the mean prediction of the batch, one number with its graph; called twice, or not at
                all where lambda is 0 and stays 0.

        Raises DivergedError where the loss or a gradient of the mean prediction is not finite; nothing has moved then.
        """
        self.base.zero_grad()
        with torch.enable_grad():
            value = loss().detach()
        if not math.isfinite(float(value)):
            raise DivergedError(f"the surrogate's loss is {float(value)}")
        if self.coefficient != 0 or self.eta != 0:
            self._add_term(prediction)
        self.base.step()
        if self.eta != 0:
            risen = self.coefficient + self.eta * (self.rho * self.norm - self.epsilon)
            self.coefficient = max(0.0, risen) if self.nonnegative else risen
        return value

    def _add_term(self, prediction: Closure) -> None:
        weights = Weights(Weights.of(self.base.param_groups), model=self.model)
        with State.of(weights, moved=weights, gradients_aside=True) as state:
            _, here = loss_and_gradients(weights, [prediction])
            self.norm = float(norm(list(here.values())))
            if not math.isfinite(self.norm):
                raise DivergedError(f"the gradient of the surrogate's mean prediction has norm {self.norm}")
            if self.norm == 0 or self.coefficient == 0:
                return
            climb(weights, here, dict.fromkeys(here, Ascent(self.radius)))
            state.rewind_generators()
            _, there = loss_and_gradients(weights, [prediction])
            length = float(norm(list(there.values())))
            if not math.isfinite(length):
                raise DivergedError(f"at the second point the mean prediction's gradient has norm {length}")
        factor = self.coefficient * self.rho / self.radius
        with torch.no_grad():
            for name, gradient in here.items():
                term = (there[name] - gradient) * factor
                weight = weights[name]
                weight.grad = term if weight.grad is None else weight.grad.add_(term)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, and lambda."""
        return {"base": self.base.state_dict(), "coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.base.load_state_dict(state["base"])
        self.coefficient = state["coefficient"]


def mean_gradient_norm(model: nn.Module, prediction: Closure) -> float:
    """||grad h||: L2 norm, over all weights together, of the gradient of a mean prediction. Leaves `.grad` alone.

    Args:
        model: the surrogate.
        prediction: returns the mean prediction, one number with its graph.
    """
    return float(norm(list(loss_and_gradients(Weights.of(model), [prediction])[1].values())))
