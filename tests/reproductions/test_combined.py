"""Methods that make one gradient of two, GU and OFMU, against the weighted sum at equal passes.

    python -m tests.reproductions.test_combined [seeds]

writes results/combined.md beside this file. GU would be falsified if as many random directions kept as much as the
retain gradients do, OFMU if a weighted sum, of whatever weight, forgot and kept as well. One learning rate, no weight
decay, no stopping rule, nothing tuned. A pass is a forward and a backward pass of 16 records; a product with a Hessian,
which is a forward and two backward passes and their graph, counts as two.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import torch

from remanent.core.files import write_atomic
from remanent.core.loop import with_settings
from remanent.core.method import Method
from remanent.core.off_gradients import OffGradients
from remanent.core.scores import score_records
from remanent.core.selection import Selection
from remanent.unlearning import grad_diff, gu, ofmu, simnpo

from .world import State, World, spread

SEEDS = (0, 1, 2)
PASSES, RATE = 102, 1e-3  # three rounds of OFMU, 51 updates of two passes
LOOK = 4  # updates between two looks
LOOKED_AT = 64  # records of each set at a look
SCOPE = Selection(("*.mlp.down_proj.*",))  # what GU trains in a model of two layers
_T = {3: 4.303, 5: 2.776}  # 0.975 quantile of Student's t with one degree less


@dataclass(frozen=True)
class OffRandom(OffGradients):
    """The same projection, off as many directions, which are drawn anew at each update and know nothing of retain."""

    def spanning(self) -> Mapping[str, torch.Tensor]:
        return {name: torch.randn_like(rows) for name, rows in self.recent.slots.items()}


def _gu(objective: str, forget: float, **changes: object) -> Callable[[], Method]:
    def make() -> Method:
        made = gu.method(objective=objective, forget_weight=forget)
        kind = OffRandom if changes.get("random") else OffGradients
        options = {name: value for name, value in changes.items() if name != "random"}
        return replace(made, combine=kind(**options))  # type: ignore[arg-type]

    return make


def _sum(forget: float) -> Callable[[], Method]:
    return lambda: grad_diff.method(forget_weight=forget)


# Name -> how it is made, and its passes per round of so many updates.
WAYS: dict[str, tuple[Callable[[], Method], int, int]] = {
    "simnpo": (lambda: replace(simnpo.method(), select=SCOPE), 2, 1),
    "gu, simnpo": (_gu("simnpo", 0.125), 2, 1),
    "gu, simnpo, random directions": (_gu("simnpo", 0.125, random=True), 2, 1),
    "gu, simnpo, plain metric": (_gu("simnpo", 0.125, metric=False), 2, 1),
    "grad-diff": (lambda: replace(grad_diff.method(), select=SCOPE), 2, 1),
    "gu, grad-diff": (_gu("grad-diff", 1.0), 2, 1),
    "gu, grad-diff, random directions": (_gu("grad-diff", 1.0, random=True), 2, 1),
    "gu, grad-diff, plain metric": (_gu("grad-diff", 1.0, metric=False), 2, 1),
    "weighted sum, forget 1": (_sum(1.0), 2, 1),
    "weighted sum, forget 0.3": (_sum(0.3), 2, 1),
    "weighted sum, forget 0.1": (_sum(0.1), 2, 1),
    "ofmu": (ofmu.method, 34, 6),
    "ofmu, no cosine": (lambda: ofmu.method(beta=0.0), 14, 6),
    "ofmu, no cosine, no penalty": (lambda: ofmu.method(beta=0.0, rho=0.0), 12, 6),
}
COLUMNS = ("forget NLL", "retain NLL", "retain NLL at control's", "reached")


def run(world: World, taught: State, name: str, seed: int) -> dict[str, float]:
    """NLL in nats per token at the end, and retain's where forget first was as unlikely as control is.

    Retain are records that no method received. Between two looks a straight line; NaN where it was not reached.
    """
    build, passes, updates = WAYS[name]
    steps = PASSES * updates // passes
    method = with_settings(
        build(), steps=steps, learning_rate=RATE, batch_size=16, schedule="constant", warmup=0.0, weight_decay=0.0
    )
    level = world.nll(taught, "control-audit")
    world.put(taught)
    seen = [looked(world)]

    def look(step: int, steps: int, losses: Mapping[str, float]) -> None:
        if step % LOOK == 0 or step == steps:
            seen.append(looked(world))

    torch.manual_seed(seed)
    state, _ = world.run(taught, method, {"forget": "forget", "retain": "retain-train"}, seed=seed, on_step=look)
    at = crossed(seen, level)
    found = world.nll(state, "forget"), world.nll(state, "retain-audit"), at, float(not math.isnan(at))
    return dict(zip(COLUMNS, found, strict=True))


def looked(world: World) -> tuple[float, float]:
    """Mean NLL of forget and of retain records, on the model as it is."""
    sets = (spread(world.encoded[name], LOOKED_AT) for name in ("forget", "retain-audit"))
    forget, retain = (score_records(world.model, asked, pad_id=world.pad_id, batch_size=64) for asked in sets)
    return float(forget.mean_nll.mean()), float(retain.mean_nll.mean())


def crossed(seen: Sequence[tuple[float, float]], level: float) -> float:
    """The second where the first first reaches a level, by a straight line between two looks."""
    for (before, here), (after, there) in pairwise(seen):
        if before < level <= after:
            return here + (there - here) * (level - before) / (after - before)
    return math.nan


def interval(values: Sequence[float]) -> str:
    """Mean and 95% interval over seeds, by Student's t; of those that reached it, which must be all."""
    if any(math.isnan(value) for value in values):
        return "not reached by all"
    return f"{mean(values):.2f} ± {_T[len(values)] * stdev(values) / math.sqrt(len(values)):.2f}"


def table(seeds: int) -> str:
    """Every way as Markdown."""
    world = World()
    taught = world.teach(world.base(), "taught")
    nll = {name: world.nll(taught, name) for name in ("forget", "retain-audit", "control-audit")}
    lines = [f"| {' | '.join(['way', *COLUMNS[:3], COLUMNS[3]])} |", "|" + " --- |" * (len(COLUMNS) + 1)]
    lines.append(f"| taught | {nll['forget']:.2f} | {nll['retain-audit']:.2f} | | |")
    for name in WAYS:
        found = [run(world, taught, name, seed) for seed in range(seeds)]
        cells = [interval([item[column] for item in found]) for column in COLUMNS[:3]]
        reached = sum(item["reached"] for item in found)
        lines.append(f"| {name} | {' | '.join(cells)} | {reached:.0f} of {seeds} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + f"\n\nControl, of the taught model: {nll['control-audit']:.2f}."


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(SEEDS)
    made = table(count)
    text = f"""# One gradient of two, at equal passes

Made by `python -m tests.reproductions.test_combined {count}` on one thread: the tiny world of the reproductions,
{PASSES} passes of 16 records, a Hessian product counted as two, learning rate {RATE:g} for all, no weight decay, no
stopping rule, nothing tuned. NLL in nats per token, teacher forced; retain are records that no method received. "At
control's": where forget first was as unlikely as the control records are, looked at every {LOOK} updates on {LOOKED_AT}
records of each set. Mean over {count} seeds (of the order of records) and its 95% interval by Student's t.

{made}
"""
    write_atomic(Path(__file__).parent / "results" / "combined.md", text)
