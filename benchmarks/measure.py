"""Timing two things in turn, so that a machine whose speed drifts does not decide the ratio."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure of the table.

    Args:
        name: what was measured.
        value: the ratio, or the figure.
        low: smallest of the repetitions.
        high: largest.
        bound: what it may be at most.
        peer: what it is a ratio to.
    """

    name: str
    value: float
    low: float
    high: float
    bound: float
    peer: str

    @classmethod
    def of(cls, name: str, values: Sequence[float], bound: float, peer: str) -> Row:
        """The median of several, least to most."""
        return cls(name, statistics.median(values), min(values), max(values), bound, peer)

    @property
    def holds(self) -> bool:
        """Whether the median keeps the bound."""
        return self.value <= self.bound


def ratio(name: str, ours: Callable[[], object], peer: Callable[[], object], bound: float, of: str, runs: int) -> Row:
    """CPU time of `ours` over that of `peer`, in turn, after one run of each that does not count."""
    ours(), peer()
    ratios = []
    for _ in range(runs):
        first = seconds(ours)
        ratios.append(first / seconds(peer))
    return Row.of(name, ratios, bound, of)


def figure(name: str, measure: Callable[[], float], bound: float, of: str, runs: int) -> Row:
    """A figure that is measured by itself."""
    values = [measure() for _ in range(runs)]
    return Row.of(name, values, bound, of)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def load() -> str:
    """A sentence on what else ran on the machine; one thread of ours is 1 of it."""
    return f"Load average of the machine over the last 15 minutes: {os.getloadavg()[2]:.1f}, on {os.cpu_count()} cores."
