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


@dataclass(frozen=True)
class Alternate:
    """1 at every second update, else 0, until a share of the run is over; then one value to the end.

    Two points of a method whose turns differ are taken in turns: where the weight is 0 nothing is passed through.

    Args:
        turn: 0 begins with the first update, 1 with the second.
        until: share of the run, in [0, 1], that alternates.
        after: the value of the rest.
    """

    turn: int
    until: float = 1.0
    after: float = 0.0

    def __post_init__(self) -> None:
        if self.turn not in (0, 1):
            raise InputError("turn", self.turn, "0 or 1")
        if not 0 <= self.until <= 1:
            raise InputError("until", self.until, "a share of the run, from 0 to 1")
        if not 0 <= self.after < math.inf:
            raise InputError("after", self.after, "a finite number of at least 0")

    def at(self, step: int, steps: int) -> float:
        """The value at an update, counted from 1, of a run of `steps`."""
        if step > self.until * steps:
            return self.after
        return float((step - 1) % 2 == self.turn)


@dataclass(frozen=True)
class Every:
    """1 at every n-th update, else 0; or the other way round.

    Args:
        interval: n, at least 2.
        others: 1 at all other updates instead.
    """

    interval: int
    others: bool = False

    def __post_init__(self) -> None:
        if self.interval < 2:
            raise InputError("interval", self.interval, "at least 2 updates")

    def at(self, step: int, steps: int) -> float:
        """The value at an update, counted from 1, of a run of `steps`."""
        return float((step % self.interval == 0) != self.others)


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
