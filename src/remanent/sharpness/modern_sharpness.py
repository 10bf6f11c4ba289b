"""Every definition of sharpness of "A modern look": how much the loss grows around the weights.

average   mean over batches B of  mean_k L_B(w + d_k) - L_B(w)          d = rho c n, n normal (l2) or uniform (linf)
worst     mean over batches B of  max L_B(w + d) - L_B(w)               ||d / c||_p <= rho, by Auto-PGD

c is 1, or |w| of each element (adaptive), or the size of its row or tensor. Each batch is measured by itself, so that
its size m is part of the definition (m-sharpness).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from remanent.core.catalogue import System
from remanent.core.displacement import AutoPGD, Displacement, Noise
from remanent.core.displacement.auto_pgd import Norm, Projection
from remanent.core.displacement.scale import Scale
from remanent.core.estimate import Estimate
from remanent.core.weights import Weights, norm
from remanent.errors import DivergedError, InputError, did_you_mean
from remanent.sharpness.estimate import mean_over
from remanent.sharpness.logits import normalized_loss
from remanent.sharpness.surface import LossSurface

SYSTEM = System(
    name="modern-sharpness",
    title="A modern look at sharpness: every adaptive definition, and whether it goes with generalization",
    year=2023,
    arxiv="2302.07011",
    card="modern-sharpness",
    family="sharpness",
    reproduction="tests/reproductions/test_sharpness_correlation.py",
    needs=("data",),
    views=("full", "lora"),
    notes="The worst point with a scale is searched in units of c; projection='euclidean' is the paper's code. A "
    "weight that is 0 does not move, where the code's projection fails silently. Rows and tensors as scales are ours.",
)

Case = Literal["average", "worst"]
_NAME = re.compile(r"([a-z]+)-([a-z0-9]+)(?:-([a-z]+))?-(\d*\.?\d+(?:e-?\d+)?)(-normalized)?")


@dataclass(frozen=True)
class Definition:
    """One definition of sharpness.

    Args:
        rho: radius, above 0.
        case: "average" over random points, or "worst".
        norm: "l2" or "linf".
        scale: "none"; "element" is adaptive; see `Scale`.
        steps: of Auto-PGD, or random points for each batch.
        projection: see `AutoPGD`.
        seed: of the random points.
        normalized: of normalized logits, see `normalized`; of `class_nll` or `token_nll` alone.
    """

    rho: float
    case: Case = "worst"
    norm: Norm = "l2"
    scale: Scale = "none"
    steps: int = 20
    projection: Projection = "scaled"
    seed: int = 0
    normalized: bool = False

    def __post_init__(self) -> None:
        if not (self.rho > 0 and math.isfinite(self.rho)):
            raise InputError("rho", self.rho, "a radius above 0")
        if self.case not in get_args(Case):
            raise InputError("case", self.case, did_you_mean(self.case, get_args(Case)))
        self.points(0)  # checks the rest

    def points(self, batch: int) -> list[Displacement]:
        """The points that are looked at for a batch, by its number: fresh draws for each."""
        if self.case == "worst":
            return [AutoPGD(self.rho, self.norm, self.scale, self.steps, projection=self.projection)]
        if self.steps < 1:
            raise InputError("steps", self.steps, "at least 1")
        first = (self.seed << 32) + batch * self.steps
        uniform = self.norm == "linf"
        return [Noise(self.rho, first + draw, self.scale, uniform) for draw in range(self.steps)]

    @classmethod
    def parse(cls, text: str, steps: int = 20) -> Definition:
        """From its name: "worst-l2-0.05", "average-linf-element-0.1-normalized"; case, norm, scale and rho.

        Raises InputError that says what is not right.
        """
        match = _NAME.fullmatch(text.strip())
        if match is None:
            raise InputError("definition", text, 'a name such as "worst-l2-0.05" or "average-l2-element-0.02"')
        case, norm, scale, rho, scaled = match.groups()
        return cls(float(rho), case, norm, scale or "none", steps, normalized=scaled is not None)  # type: ignore[arg-type]

    def __str__(self) -> str:
        unit = "" if self.scale == "none" else f"-{self.scale}"
        return f"{self.case}-{self.norm}{unit}-{self.rho:g}" + "-normalized" * self.normalized


@dataclass(frozen=True)
class Sharpness:
    """What a definition found.

    Args:
        definition: what was measured.
        loss: growth of the loss, in nats; with an interval over batches where there are several.
        error: growth of the share answered wrongly at the same points; None where it was not asked for.
        clean: the loss at the weights.
        distance: the largest L2 norm of a perturbation.
        batches: growth of the loss of each batch.
    """

    definition: Definition
    loss: Estimate
    error: Estimate | None
    clean: float
    distance: float
    batches: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "measure": "sharpness",
            "definition": asdict(self.definition),
            "loss": self.loss.to_dict(),
            "error": None if self.error is None else self.error.to_dict(),
            "clean": self.clean,
            "distance": self.distance,
            "batches": [value if math.isfinite(value) else None for value in self.batches],
        }


def sharpness(
    surface: LossSurface, definition: Definition, *, on_batch: Callable[[], None] = lambda: None
) -> Sharpness:
    """Sharpness of a loss by one definition.

    Of random points the growth can be below 0; of the worst it cannot, since the weights themselves are among them.
    One forward and backward pass a step and batch for the worst case, a forward pass a point and batch otherwise.

    Args:
        surface: model, batches, loss, weights and point.
        definition: what is measured.
        on_batch: called after each batch.

    Raises DivergedError where the loss is not finite at the weights themselves, InputError where its logits are to be
    normalized and are not known.

    Source: arXiv 2302.07011, equations 1 and 2.
    """
    if definition.normalized:
        surface = replace(surface, loss=normalized_loss(surface.loss))
    grown, errors, cleans, distance = [], [], [], 0.0
    with surface.entered() as weights:
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        for number, batch in enumerate(surface.batches):
            clean, wrong = float(surface.losses(batch).mean()), surface.error(batch)
            if not math.isfinite(clean):
                raise DivergedError(f"batch {number}: the loss at the weights themselves is {clean}")
            points = definition.points(number)
            loss = error = 0.0
            for point in points:
                with point.at(weights, lambda batch=batch: surface.mean_loss(batch)):
                    loss += float(surface.losses(batch).mean()) / len(points)
                    error += surface.error(batch) / len(points)
                    distance = max(distance, _distance(weights, start))
            grown.append(loss - clean)
            errors.append(error - wrong)
            cleans.append(clean)
            on_batch()
    return Sharpness(
        definition,
        mean_over(grown),
        None if surface.wrong is None else mean_over(errors),
        sum(cleans) / len(cleans),
        distance,
        tuple(grown),
    )


def _distance(weights: Weights, start: dict[str, Any]) -> float:
    return float(norm(weight.detach() - start[name] for name, weight in weights.items()))
