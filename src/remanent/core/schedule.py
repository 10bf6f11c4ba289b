"""Numbers that change over a run: the weight of a point, the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from remanent.errors import InputError

LearningRateSchedule = Literal["constant", "linear", "cosine"]


@runtime_checkable
class Schedule(Protocol):
    """A number that changes over a run."""

    def at(self, step: int, steps: int) -> float:
        """The value at an update, counted from 1, of a run of `steps`."""
        ...


@dataclass(frozen=True)
class Ramp:
    """`start` until a share of the run is over, then linear so as to reach `stop` halfway through the rest.

    Args:
        start: value at first.
        stop: value at last.
        after: share of the run, in [0, 1), that keeps `start`.

    Source: DurableUn, arXiv 2605.02196, warm-up of alpha: 0 for t <= t_w, then min(a, 2 a (t - t_w) / (T - t_w)).
    """

    start: float
    stop: float
    after: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("stop", self.stop)):
            if not 0 <= value < math.inf:
                raise InputError(name, value, "a finite number of at least 0")
        if not 0 <= self.after < 1:
            raise InputError("after", self.after, "a share of the run, at least 0 and below 1")

    def at(self, step: int, steps: int) -> float:
        """The value at an update, counted from 1, of a run of `steps`."""
        warm = self.after * steps
        if step <= warm:
            return self.start
        return self.start + (self.stop - self.start) * min(1.0, 2 * (step - warm) / (steps - warm))


def learning_rate_factor(schedule: LearningRateSchedule, step: int, steps: int, warmup: float) -> float:
    """What the learning rate is multiplied with at an update.

    Args:
        schedule: after the warm-up: "constant", "linear" to 0, or "cosine" to 0.
        step: the update, counted from 1.
        steps: the run's number of updates.
        warmup: share of the run over which the rate rises linearly from 0.
    """
    rising = warmup * steps
    if step <= rising:
        return step / rising
    done = max(0.0, step - 1 - rising) / max(1.0, steps - rising)
    if schedule == "constant":
        return 1.0
    return 1.0 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
