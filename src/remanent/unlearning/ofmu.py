"""OFMU: rounds of several steps that forget, off what is kept, and one that keeps, held where forgetting has come to.

With L_f, L_r the token mean NLL of forget and retain, g_f, g_r their gradients over all weights that train, and

    Phi = L_f - beta cos(g_f, g_r)

a round ascends Phi for T updates, then descends L_r + rho_k |g_f|^2 for one; rho_k grows from round to round. Each
update has batches of its own, and the last of a run is one that keeps. Gradients of gradients are exact, by
differentiating twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from remanent.core.catalogue import System
from remanent.core.combine import Gradients, added_up, by_term
from remanent.core.method import Combine, Method, Recipe, UpdateView
from remanent.core.weights import norm
from remanent.errors import InputError
from remanent.unlearning.grad_diff import GradDiff

SYSTEM = System(
    name="ofmu",
    title="OFMU: rounds of forgetting steps that turn the two gradients apart, and a keeping step",
    year=2025,
    arxiv="2509.22483",
    card="ofmu",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_combined.py",
    needs=("forget", "retain"),
    notes="No code is public, and beta, rho and the learning rates are not in what could be read: ours, as is "
    "the bound on the cosine's gradient. The penalty is of L_f alone, without the cosine, which would take a third "
    "derivative. One AdamW for both loops.",
)


@dataclass(frozen=True)
class Rounds:
    """The gradient of an inner or an outer update, of the terms "forget", minimised and so -L_f, and "retain".

    Inner, for `inner` updates of a round: the gradient of -Phi, where that of beta cos is at most beta as long as g_f:

        s = H_f u + H_r v,    u = d cos / d g_f = (g_r / |g_r| - cos g_f / |g_f|) / |g_f|, v likewise
        -g_f + beta s min(1, |g_f| / |s|)

    Outer, for one: g_r + 2 rho_k H_f g_f, rho_k = rho * growth^k in round k, from 0. Norms and the cosine are over all
    weights together, in at least float32; u, v and g_f are constants in the products with the Hessians.

    Args:
        inner: T, updates of a round that forget, at least 1.
        beta: at least 0; 0 makes them plain ascent.
        rho: weight of |g_f|^2 in the first round, at least 0; 0 makes the outer update plain descent.
        growth: of rho from a round to the next, at least 1.

    Source: OFMU, arXiv 2509.22483, inner and outer objective; the bound and the penalty without the cosine are ours.
    """

    inner: int = 5
    beta: float = 0.5
    rho: float = 0.01
    growth: float = 1.02

    sums_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("inner", self.inner >= 1, "at least 1 update"),
            ("beta", 0 <= self.beta < math.inf, "a finite number of at least 0"),
            ("rho", 0 <= self.rho < math.inf, "a finite number of at least 0"),
            ("growth", 1 <= self.growth < math.inf, "a finite number of at least 1"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)

    def within(self, update: UpdateView) -> Combine:
        """The combination of one update: an inner one, or, last in a round or in the run, an outer one."""
        outer, number = self._outer(update.step, update.steps), (update.step - 1) // (self.inner + 1)

        def combined(gradients: Gradients) -> dict[str, Tensor]:
            sums = by_term(gradients)
            forget, retain = sums.get("forget", {}), sums.get("retain", {})
            if outer:
                return added_up([retain, self._penalty(forget, self.rho * self.growth**number, update)])
            return added_up([forget, self._apart(forget, retain, update)])

        return combined

    def products(self, step: int, steps: int) -> tuple[str, ...]:
        """Of both terms for the cosine, of the forget term for the penalty."""
        if self._outer(step, steps):
            return ("forget",) if self.rho else ()
        return ("forget", "retain") if self.beta else ()

    def _outer(self, step: int, steps: int) -> bool:
        return step % (self.inner + 1) == 0 or step == steps

    def _penalty(self, forget: Mapping[str, Tensor], rho: float, update: UpdateView) -> dict[str, Tensor]:
        if not rho or not forget:
            return {}
        return scaled(update.times_hessian({"forget": forget}), 2 * rho)

    def _apart(
        self, forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], update: UpdateView
    ) -> dict[str, Tensor]:
        lengths = [float(norm(part.values())) for part in (forget, retain)]
        if not self.beta or not all(0 < length < math.inf for length in lengths):
            return {}
        # Of -g_f: that its sign is turned turns the cosine's too, and -cos is what the inner objective adds.
        slopes = cosine_slopes(forget, retain)
        slope = update.times_hessian({"forget": slopes[0], "retain": slopes[1]})
        length = float(norm(slope.values()))
        if not 0 < length < math.inf:
            return {}
        return scaled(slope, -self.beta * min(1.0, lengths[0] / length))


@torch.no_grad()
def cosine_slopes(
    left: Mapping[str, Tensor], right: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of cos(left, right) by left and by right, over all weights together; neither may be 0."""
    first, second = float(norm(left.values())), float(norm(right.values()))
    shared = left.keys() & right.keys()
    cosine = sum(float((left[name].double() * right[name]).sum()) for name in sorted(shared)) / (first * second)

    def slope(own: Mapping[str, Tensor], other: Mapping[str, Tensor], here: float, there: float) -> dict[str, Tensor]:
        return added_up([scaled(other, 1 / (here * there)), scaled(own, -cosine / here**2)])

    return slope(left, right, first, second), slope(right, left, second, first)


def scaled(gradients: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Each gradient times a number."""
    return {name: gradient * factor for name, gradient in gradients.items()}


def method(
    inner: int = 5,
    beta: float = 0.5,
    rho: float = 0.01,
    growth: float = 1.02,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> Method:
    """OFMU with the paper's number of inner steps.

    Args:
        inner: T, updates of a round that forget.
        beta: weight of the cosine.
        rho: weight of |g_f|^2 in the first round.
        growth: of rho from a round to the next.
        forget_weight: of the forget loss.
        retain_weight: of the retain loss.
    """
    return Method(
        GradDiff(),
        weights={"forget": forget_weight, "retain": retain_weight},
        combine=Rounds(inner, beta, rho, growth),
        recipe=Recipe(),
    )
