"""ASAM: SAM whose radius is relative to the weights, so that rescaling a layer and its next does not change it.

e = rho * T^2 g / ||T g||; T = |w| + eta elementwise for parameters named "weight", 1 for the others, such as biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.errors import InputError
from remanent.optim.sam import SAM

SYSTEM = System(
    name="asam",
    title="Adaptive sharpness-aware minimization, round any base optimizer",
    year=2021,
    arxiv="2102.11600",
    card="sam-family",
    family="optim",
    reproduction="tests/reproductions/test_sam_family.py",
    notes="T is the official code's: 1 for what is not named a weight. SAM(adaptive=True, eta=...) scales everything.",
)


class ASAM(SAM):
    """Adaptive sharpness-aware minimization round a base optimizer, with the official code's T.

    Each group becomes two: what has "weight" in its name, norms' weights too, with `adaptive`, and the rest without.
    A group that sets `adaptive` itself stays one.

    Args:
        params: named parameters, or groups of them; or, with `model`, parameters without names.
        base: makes the base optimizer. Called with the groups and the rest of `options`.
        rho: radius relative to the weights, at least 0; about ten times SAM's.
        eta: added to |w|, at least 0: with 0 a weight that is 0 does not move.
        model: as `SAM` has it; it also names the parameters.
        options: `SAM`'s other options and the base optimizer's.

    Raises InputError for a parameter without a name, and for a value out of range.

    Source: arXiv 2102.11600, equation 5; github.com/SamsungLabs/ASAM, f156a68.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        rho: float = 0.5,
        eta: float = 0.01,
        model: nn.Module | None = None,
        **options: Any,
    ) -> None:
        groups = _split(list(params), {} if model is None else {id(p): name for name, p in model.named_parameters()})
        super().__init__(groups, base, rho=rho, adaptive=True, eta=eta, model=model, **options)


def _split(params: list[Any], names: Mapping[int, str]) -> list[dict[str, Any]]:
    groups = params if params and isinstance(params[0], Mapping) else [{"params": params}]
    found: list[dict[str, Any]] = []
    for group in groups:
        if "adaptive" in group:
            found.append(dict(group))
            continue
        parts: dict[bool, list[Any]] = {True: [], False: []}
        for item in list(group["params"]):
            name = item[0] if isinstance(item, tuple) else names.get(id(item))
            if name is None:
                raise InputError("params", "a parameter without a name", "model.named_parameters(), or model=model")
            parts["weight" in name].append(item)
        found += [{**group, "params": part, "adaptive": adaptive} for adaptive, part in parts.items() if part]
    return found
