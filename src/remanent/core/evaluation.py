"""Evaluation during a run: how well sets are known at some points, and what that means for stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from remanent.core.batch import Encoded
from remanent.core.displacement import Displacement
from remanent.core.scores import score_records
from remanent.errors import DivergedError

# point -> set -> mean answer NLL per record, in nats
Known = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """What was found at a step.

    Args:
        step: the update after which it was made; 0 is before the first.
        nll: point -> set -> mean answer NLL per record, in nats.
        target: point -> the NLL that the forget set should have there.
        score: higher is better: which step's weights are kept.
        reached: whether the rule would stop here.
    """

    step: int
    nll: Known
    target: Mapping[str, float]
    score: tuple[float, ...]
    reached: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for metrics.jsonl."""
        return {
            "step": self.step,
            "kind": "evaluation",
            "nll": {point: dict(sets) for point, sets in self.nll.items()},
            "target": dict(self.target),
            "score": list(self.score),
            "reached": self.reached,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """Back from plain data."""
        return cls(data["step"], data["nll"], data["target"], tuple(data["score"]), data["reached"])


def known(
    model: nn.Module,
    sets: Mapping[str, Sequence[Encoded]],
    points: Sequence[Displacement],
    *,
    pad_id: int,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
) -> dict[str, dict[str, float]]:
    """Mean answer NLL of each set at each point: a mean over records of their mean over tokens, in nats.

    Several processes share the batches out and find the same, bit for bit what one would find; each must call this.
    """
    found: dict[str, dict[str, float]] = {}
    for point in points:
        with point.at(model):
            found[str(point)] = {
                name: float(
                    score_records(
                        model, records, pad_id=pad_id, batch_size=batch_size, autocast=autocast, shared=True
                    ).mean_nll.mean()
                )
                for name, records in sets.items()
            }
    return found


@dataclass
class ForgetAtControl:
    """Stop when the forget set is no better known than the control set, at every point; keep the best step.

    The target at each point is the larger of the control's NLL under the model as it is now and under the model
    before the run: the aim is equality, not the largest loss. The first step that reaches it within the margin ends the
    run and is kept; if none does, the one with the smallest gap. Raises DivergedError where an NLL is not finite.
    Several processes share the work and decide alike: each must call the rule.

    Args:
        sets: "forget", "retain" and "control" of the select split.
        points: where the rule must hold.
        pad_id: token that fills short rows.
        margin: nats by which the forget set's NLL may stay below the target.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic.
    """

    sets: Mapping[str, Sequence[Encoded]]
    points: Sequence[Displacement]
    pad_id: int
    margin: float = 0.0
    batch_size: int = 16
    autocast: torch.dtype | None = None
    before: Known | None = None

    def __call__(self, model: nn.Module, step: int) -> Evaluation:
        """Evaluate after a step. The first call must be before the first update."""
        now = known(
            model, self.sets, self.points, pad_id=self.pad_id, batch_size=self.batch_size, autocast=self.autocast
        )
        for point, sets in now.items():
            for name, value in sets.items():
                if not math.isfinite(value):
                    raise DivergedError(f"step {step}: the NLL of {name} at {point} is {value}")
        if self.before is None:
            self.before = now
        target = {point: max(now[point]["control"], self.before[point]["control"]) for point in now}
        gap = max(target[point] - now[point]["forget"] for point in now)
        reached = gap <= self.margin
        # How much of the retain set's NLL was added at the worst point, against the model before the run.
        lost = max(now[point].get("retain", 0.0) - self.before[point].get("retain", 0.0) for point in now)
        score = (1.0, -lost) if reached else (0.0, -gap)
        return Evaluation(step, now, target, score, reached)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the measurements from before the first update."""
        return {"before": self.before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.before = state["before"]
