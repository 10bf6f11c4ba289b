"""Timing two things in turn, so that a machine whose speed drifts does not decide the ratio."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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

    @property
    def holds(self) -> bool:
        """Whether the median keeps the bound."""
        return self.value <= self.bound


def ratio(name: str, ours: Callable[[], object], peer: Callable[[], object], bound: float, of: str, runs: int) -> Row:
    """CPU time of `ours` over that of `peer`, in turn, after one run of each that does not count."""
    ours(), peer()
    ratios = []
    for _ in range(runs):
        first = _seconds(ours)
        ratios.append(first / _seconds(peer))
    return Row(name, statistics.median(ratios), min(ratios), max(ratios), bound, of)


def figure(name: str, measure: Callable[[], float], bound: float, of: str, runs: int) -> Row:
    """A figure that is measured by itself."""
    values = [measure() for _ in range(runs)]
    return Row(name, statistics.median(values), min(values), max(values), bound, of)


def extra_memory(work: Callable[[], object]) -> int:
    """Bytes by which resident memory rose above its start while `work` ran, sampled every millisecond."""
    start, peak, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(0, peak - start)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
