"""What the gradient rules have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from remanent.core.gradient_rules.gramian import gramian, weighted_sum
from remanent.core.method import Combine


class GradientRule(Combine):
    """Several gradients to one: sum of w_i g_i, w of the gradients' inner products alone.

    In a method each (term, point) is a task. Memory: the gradients, which the update keeps one by one, and their sum.
    """

    adds_up: ClassVar[bool] = (
        False  # every w_i is 1, whatever the gradients: who makes them may add them up as they come
    )

    def weights(self, gramian: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The tasks' weights, (tasks,), float64.

        Args:
            gramian: A_ij = <g_i, g_j>: (tasks, tasks), float64, symmetric, positive semidefinite.
            generator: for rules that draw.
        """
        raise TypeError(f"{type(self).__name__} does not say how it weighs gradients")

    def combined(
        self, parts: Sequence[Mapping[str, Tensor]], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Weight's name -> gradient, of each task's gradients by name.

        Gradients that are not finite are added up, for whoever looks at the result to see.
        """
        products = gramian(parts)
        if not torch.isfinite(products).all():
            return weighted_sum(parts, torch.ones(len(parts), dtype=torch.float64))
        return weighted_sum(parts, self.weights(products, generator))

    def __call__(self, gradients: Mapping[tuple[str, str], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return self.combined(list(gradients.values()))
