"""SMART: predictions stay the same at the worst nearby input, and near those of the model's own average.

L = task loss + weight * mean D(f(x), f(x + z)) + proximity * mean D(f(x; w), f(x; w~)), D the symmetric KL. z is one
normalized gradient step up KL(f(x) || f(x + z)) from a little noise; w~ is the exponential moving average of w
(Bregman proximal point). A loss term, since the step is the base optimizer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.catalogue import System
from remanent.core.divergence import mean_divergence
from remanent.core.model_inputs import changed_input, counting, logits_of, unwrapped
from remanent.core.weight_average import WeightAverage, check_decay
from remanent.errors import InputError
from remanent.optim.mesa import check_term

SYSTEM = System(
    name="smart",
    title="Smoothness-inducing adversarial regularization and Bregman proximal point optimization",
    year=2019,
    arxiv="1911.03437",
    card="tram",
    family="optim",
    reproduction="tests/reproductions/test_tram.py",
    notes="z starts at the input, not at the noise, as in mt-dnn's code, and takes one step. Gradients go through both "
    "sides of the divergence, as in the paper; mt-dnn detaches the target of each. Its 1e-6 beside the gradient's size "
    "makes its steps far shorter than their name says; here the largest entry of z is the step size.",
)

_TINY = 1e-20


class SMART:
    """The loss term of SMART: `loss = task_loss + smart(logits, *inputs)`, and `smart.update()` after each update.

    Costs two more forward and backward passes for z (the first backward to the input alone), and a forward pass and a
    copy of what trains for the average. Noise and dropout's masks are drawn from torch's default generator, anew.

    Args:
        model: the model, before training.
        weight: lambda, at least 0; 0 leaves the adversarial term out.
        proximity: mu, at least 0; 0 leaves the Bregman term and its average out.
        noise: standard deviation of the noise from which the gradient is taken, above 0.
        step_size: eta: the largest entry of z, per token or record, at least 0.
        decay: of the average, per update.
        early_decay: the same for the first `early_updates`.
        early_updates: the paper: a tenth of the run.

    Raises InputError for a value out of range.

    Source: arXiv 1911.03437, equations 2 to 4 and Algorithm 1; mt-dnn, perturbation.py.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 1.0,
        proximity: float = 1.0,
        noise: float = 1e-5,
        step_size: float = 1e-3,
        decay: float = 0.999,
        early_decay: float = 0.99,
        early_updates: int = 0,
    ) -> None:
        check_term(weight)
        for name, value, right, expected in (
            ("proximity", proximity, 0 <= proximity < float("inf"), "a finite number of at least 0"),
            ("noise", noise, 0 < noise < float("inf"), "a finite number above 0"),
            ("step_size", step_size, 0 <= step_size < float("inf"), "a finite number of at least 0"),
            ("early_updates", early_updates, early_updates >= 0, "a number of updates, at least 0"),
        ):
            if not right:
                raise InputError(name, value, expected)
        check_decay("early_decay", early_decay)
        self.model, self.weight, self.proximity, self.noise, self.step_size = model, weight, proximity, noise, step_size
        self.early_decay, self.early_updates, self.updates = early_decay, early_updates, 0
        check_decay("decay", decay)
        self.average = WeightAverage(model, decay) if proximity > 0 else None

    def __call__(self, logits: Tensor, *inputs: Any, **named: Any) -> Tensor:
        """The weighted terms, means over records, or over the positions of `attention_mask` where each has logits.

        Args:
            logits: the model's for these inputs, (..., classes), with their graph.
            inputs: what the model was given, `named` too.
        """
        mask, total = counting(logits, named), logits.new_zeros(())
        if self.weight > 0:
            z = self._adversarial(logits.detach(), mask, inputs, named)
            with changed_input(unwrapped(self.model), lambda value: value.detach() + z):
                worst = logits_of(self.model(*inputs, **named))
            total = total + self.weight * mean_divergence(logits, worst, symmetric=True, mask=mask)
        if self.average is not None:
            teacher = self.average.logits(*inputs, **named)
            total = total + self.proximity * mean_divergence(teacher, logits, symmetric=True, mask=mask)
        return total

    def update(self) -> None:
        """Take the weights of now up into the average; after each of the optimizer's updates."""
        if self.average is not None:
            self.average.update(self.early_decay if self.updates < self.early_updates else None)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of updates."""
        return {"average": None if self.average is None else self.average.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.updates = state["updates"]

    def _adversarial(
        self, logits: Tensor, mask: Tensor | None, inputs: tuple[Any, ...], named: Mapping[str, Any]
    ) -> Tensor:
        noise: list[Tensor] = []

        def noised(value: Tensor) -> Tensor:
            noise.append((self.noise * torch.randn_like(value)).requires_grad_())
            return value.detach() + noise[0]

        with torch.enable_grad():
            with changed_input(unwrapped(self.model), noised):
                nearby = logits_of(self.model(*inputs, **named))
            (gradient,) = torch.autograd.grad(mean_divergence(logits, nearby, mask=mask), noise)
        # A token's embedding, or the whole of a record that is no sequence of vectors.
        of_one = (-1,) if gradient.dim() == 3 else tuple(range(1, gradient.dim()))
        return self.step_size * gradient / (gradient.abs().amax(dim=of_one, keepdim=True) + _TINY)
