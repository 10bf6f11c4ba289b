"""Quantization recovery, measured: what rounding brings back of what was forgotten, and how far the weights moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remanent.core.displacement import Displacement, Here, Rounding
from remanent.core.method import Method
from remanent.core.quantization import movement
from remanent.core.selection import LINEARS
from remanent.core.weights import Weights

from .world import State, World, token_accuracy

INT4 = Rounding("int4-row")
POINTS: Mapping[str, Displacement] = {"full": Here(), "int8": Rounding("int8"), "int4": INT4}


@dataclass(frozen=True)
class Found:
    """A model at each point of POINTS.

    Args:
        forget, retain, control: point -> mean answer NLL in nats; retain and control are the audit splits.
        forget_accuracy, retain_accuracy: point -> token accuracy, FA and RA of the papers.
        moved: share of the linear weights that moved by more than half a step of int4-row.
        known: forget NLL of the original model.
    """

    forget: Mapping[str, float]
    retain: Mapping[str, float]
    control: Mapping[str, float]
    forget_accuracy: Mapping[str, float]
    retain_accuracy: Mapping[str, float]
    moved: float
    known: float

    def recovered(self, point: str) -> float:
        """The share of what was forgotten at full precision that is back at another point: 0 nothing, 1 everything."""
        return (self.forget["full"] - self.forget[point]) / (self.forget["full"] - self.known)


def find(world: World, original: State, state: State) -> Found:
    """Measure a state, against the original that it came from."""

    scored = {
        records: {name: world.scores(state, records, point) for name, point in POINTS.items()}
        for records in ("forget", "retain-audit", "control-audit")
    }
    nll = {
        records: {name: float(found.mean_nll.mean()) for name, found in points.items()}
        for records, points in scored.items()
    }
    return Found(
        nll["forget"],
        nll["retain-audit"],
        nll["control-audit"],
        {name: token_accuracy(found) for name, found in scored["forget"].items()},
        {name: token_accuracy(found) for name, found in scored["retain-audit"].items()},
        moved_half_a_step(world, original, state),
        world.nll(original, "forget"),
    )


def moved_half_a_step(world: World, before: State, after: State) -> float:
    """Share of the linear weights that moved by more than half a step of int4-row: it needs no data."""
    names = list(LINEARS.of(Weights.of(world.model)))
    shares = [(before[name].numel(), movement(before[name], after[name], INT4.quantization)) for name in names]
    return sum(size * share["moved_half_step"] for size, share in shares) / sum(size for size, _ in shares)


def forgotten(
    world: World, original: State, method: Method, learning_rate: float, seed: int, *, steps: int = 160
) -> Found:
    """Unlearn until forget is no better known than unseen records at full precision, and measure what came of it."""
    state, outcome = world.unlearn(
        original, method, learning_rate=learning_rate, steps=steps, stop_at=(POINTS["full"],), seed=seed
    )
    assert outcome.stopped, f"{steps} steps at {learning_rate} did not forget"
    return find(world, original, state)
