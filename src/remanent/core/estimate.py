"""A figure and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the two ends of its interval; an end is None where the data do not bound it."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def bounded(cls, value: float, low: float, high: float) -> Estimate:
        """From an interval whose open ends are infinite."""
        return cls(value, _finite(low), _finite(high))

    def to_dict(self) -> dict[str, float | None]:
        """Plain data; what is not finite is None."""
        return {name: _finite(getattr(self, name)) for name in ("value", "low", "high")}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
