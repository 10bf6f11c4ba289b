"""Quantization recovery, measured: what rounding brings back of what was forgotten, and how far the weights moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remanent.core.displacement import Displacement, Here, Rounding
from remanent.core.method import Method
from remanent.core.quantization import movement
from remanent.core.selection import LINEARS
from remanent.core.weights import Weights
from remanent.unlearning import durable, durableun_saf, grad_diff, npo

from .world import State, World, token_accuracy

INT4 = Rounding("int4-row")
POINTS: Mapping[str, Displacement] = {
    "full": Here(),
    "bf16": Rounding("bf16"),
    "int8-tensor": Rounding("int8-tensor"),  # the paper's: one scale for a whole matrix
    "int8": Rounding("int8"),
    "int4-g32": Rounding("int4-g32"),
    "nf4": Rounding("nf4"),
    "int4": INT4,
}
STEPS = 200  # at most; DurableUn-SAF's alpha is all there after half of them
SMALL = 3e-4


@dataclass(frozen=True)
class Way:
    """A way to unlearn.

    Args:
        method: the composition.
        learning_rate: constant.
        stop_at: names of POINTS at which the stopping rule must hold.
    """

    method: Method
    learning_rate: float = SMALL
    stop_at: tuple[str, ...] = ("full",)


_BOTH = ("full", "int4")
RATES = (SMALL, 1e-3, 3e-3)
WAYS: Mapping[str, Way] = {
    **{f"NPO {rate:g}": Way(npo.method(), rate) for rate in RATES},
    "durable": Way(durable.method(retain_weight=1.0), stop_at=_BOTH),  # NPO's, beside which it stands
    "durable, no directions": Way(durable.method(retain_weight=1.0, directions=0), stop_at=_BOTH),
    "GradDiff": Way(grad_diff.method()),
    # As published, but for a warm-up that would outlast a run which a rule stops.
    "SAF": Way(durableun_saf.method(alpha=1.0, warmup=0.0), stop_at=_BOTH),
    "SAF, retain rounded": Way(durableun_saf.method(alpha=1.0, warmup=0.0, quantize_retain=True), stop_at=_BOTH),
}
PLAIN = f"NPO {SMALL:g}"


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


def snapped_of(world: World, base: State) -> State:
    """The base, taught at its rounded weights and put on their grid: every linear weight is the centre of its bin."""
    return world.moved(world.teach(base, "taught", at=INT4), INT4)


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


def unlearned(world: World, original: State, name: str, seed: int) -> State:
    """Unlearn until forget is no better known than unseen records (select split), wherever the way asks for it."""
    way = WAYS[name]
    # About as many looks at every rate, since larger steps are fewer.
    every = max(2, round(2.4e-3 / way.learning_rate))
    points = [POINTS[name] for name in way.stop_at]
    state, outcome = world.unlearn(
        original,
        way.method,
        learning_rate=way.learning_rate,
        steps=STEPS,
        stop_at=points,
        evaluate_every=every,
        seed=seed,
    )
    assert outcome.stopped, f"{name}, seed {seed}: {STEPS} steps did not forget"
    return state
