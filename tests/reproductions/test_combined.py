"""Methods that make one gradient of two, GU and OFMU, against the losses added up, at equal passes.

    python -m tests.reproductions.test_combined [seeds]

writes results/combined.md beside this file. GU would be falsified if as many random directions kept as much as the
retain gradients do, OFMU if a weighted sum, of whatever weight, forgot and kept as well. A pass is a forward and a
backward pass of 16 records; a product with a Hessian, which is a forward and two backward passes, counts as two. Rate
and forget weight are those at which the plain sum forgets on another world; nothing is chosen for GU or OFMU.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
import torch

from remanent.core.files import write_atomic
from remanent.core.loop import with_settings
from remanent.core.method import Method
from remanent.core.off_gradients import OffGradients
from remanent.core.scores import score_records
from remanent.core.selection import Selection
from remanent.unlearning import grad_diff, gu, ofmu, simnpo

from .study_rows import mean_and_interval
from .world import State, World, spread

SEEDS = (0, 1, 2)
PASSES = 102  # three rounds of OFMU, 51 updates of two passes
RATES = (1e-3, 3e-3, 1e-2)
ELSEWHERE = 1  # seed of the world on which a setting is chosen
LOOK = 4  # updates between two looks
LOOKED_AT = 64  # records of each set at a look
SCOPE = Selection(("*.mlp.down_proj.*",))  # what GU trains in a model of two layers


@dataclass(frozen=True)
class OffRandom(OffGradients):
    """The same projection, off as many directions, which are drawn anew at each update and know nothing of retain."""

    def spanning(self) -> Mapping[str, torch.Tensor]:
        return {name: torch.randn_like(rows) for name, rows in self.recent.slots.items()}


# Host -> the forget weights that it is tried with, the paper's first, and its plain sum by forget weight.
HOSTS: dict[str, tuple[tuple[float, ...], Callable[[float], Method]]] = {
    "simnpo": ((0.125, 1.0), lambda weight: replace(simnpo.method(forget_weight=weight), select=SCOPE)),
    "grad-diff": ((1.0,), lambda weight: replace(grad_diff.method(forget_weight=weight), select=SCOPE)),
    "sum": ((1.0,), lambda weight: grad_diff.method(forget_weight=weight)),  # all weights train, as under OFMU
}


def _gu(objective: str, combine: OffGradients) -> Callable[[float], Method]:
    # With directions of its own, since a way is made anew for each run.
    return lambda weight: replace(gu.method(objective=objective, forget_weight=weight), combine=combine)


# Name -> its host, how it is made of the host's forget weight, and its passes per round of so many updates.
WAYS: dict[str, tuple[str, Callable[[float], Method], int, int]] = {}
for host in ("simnpo", "grad-diff"):
    WAYS[host] = (host, HOSTS[host][1], 2, 1)
    WAYS[f"gu, {host}"] = (host, _gu(host, OffGradients()), 2, 1)
    WAYS[f"gu, {host}, random directions"] = (host, _gu(host, OffRandom()), 2, 1)
    WAYS[f"gu, {host}, plain metric"] = (host, _gu(host, OffGradients(metric=False)), 2, 1)
    WAYS[f"gu, {host}, one direction"] = (host, _gu(host, OffGradients(count=1)), 2, 1)
WAYS |= {
    "weighted sum, forget 1": ("sum", HOSTS["sum"][1], 2, 1),
    "weighted sum, forget 0.3": ("sum", lambda weight: grad_diff.method(forget_weight=0.3 * weight), 2, 1),
    "weighted sum, forget 0.1": ("sum", lambda weight: grad_diff.method(forget_weight=0.1 * weight), 2, 1),
    "ofmu": ("sum", lambda weight: ofmu.method(forget_weight=weight), 34, 6),
    "ofmu, no cosine": ("sum", lambda weight: ofmu.method(beta=0.0, forget_weight=weight), 14, 6),
    "ofmu, no cosine, no penalty": ("sum", lambda weight: ofmu.method(beta=0.0, rho=0.0, forget_weight=weight), 12, 6),
}
COLUMNS = ("forget NLL", "retain NLL", "retain NLL at control's", "reached")


def taught_in(world: World) -> State:
    """A model that knows the authors to be forgotten and those to be kept."""
    return world.teach(world.base(), "taught")


def chosen(world: World, taught: State, host: str) -> tuple[float, float]:
    """Forget weight and rate: the first at which the plain sum forgets up to control's level, else the last."""
    weights, make = HOSTS[host]
    tried = [(weight, rate) for weight in weights for rate in RATES]
    for weight, rate in tried:
        if run(world, taught, make(weight), PASSES // 2, rate, 0)["reached"]:
            return weight, rate
    return tried[-1]


def run(world: World, taught: State, made: Method, steps: int, rate: float, seed: int) -> dict[str, float]:
    """NLL in nats per token at the end, and retain's where forget first was as unlikely as control is.

    Retain are records that no method received. Between two looks a straight line; NaN where it was not reached.
    """
    batch_size = world.batch_size
    method = with_settings(
        made, steps=steps, learning_rate=rate, batch_size=batch_size, schedule="constant", warmup=0.0, weight_decay=0.0
    )
    level = world.nll(taught, "control-audit")
    world.put(taught)
    seen = [looked(world)]

    def look(step: int, steps: int, losses: Mapping[str, float]) -> None:
        if step % LOOK == 0 or step == steps:
            seen.append(looked(world))

    state, _ = world.run(taught, method, {"forget": "forget", "retain": "retain-train"}, seed=seed, on_step=look)
    at = crossed(seen, level)
    found = world.nll(state, "forget"), world.nll(state, "retain-audit"), at, float(not math.isnan(at))
    return dict(zip(COLUMNS, found, strict=True))


def looked(world: World) -> tuple[float, float]:
    """Mean NLL of forget and of retain records, on the model as it is."""
    sets = (spread(world.encoded[name], LOOKED_AT) for name in ("forget", "retain-audit"))
    forget, retain = (score_records(world.model, asked, **world.how) for asked in sets)
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
    return mean_and_interval(values)


def way(
    world: World, taught: State, name: str, settings: Mapping[str, tuple[float, float]], seed: int
) -> dict[str, float]:
    """What is measured of a way, at its host's forget weight and rate."""
    host, make, passes, updates = WAYS[name]
    weight, rate = settings[host]
    return run(world, taught, make(weight), PASSES * updates // passes, rate, seed)


def table(seeds: int) -> str:
    """Every way as Markdown."""
    world = World(seed=ELSEWHERE)
    taught = taught_in(world)
    settings = {host: chosen(world, taught, host) for host in HOSTS}
    world = World()
    taught = taught_in(world)
    nll = {name: world.nll(taught, name) for name in ("forget", "retain-audit", "control-audit")}
    lines = [f"| {' | '.join(['way', 'forget weight, rate', *COLUMNS])} |", "|" + " --- |" * (len(COLUMNS) + 2)]
    lines.append(f"| taught | | {nll['forget']:.2f} | {nll['retain-audit']:.2f} | | |")
    for name in WAYS:
        found = [way(world, taught, name, settings, seed) for seed in range(seeds)]
        cells = [interval([item[column] for item in found]) for column in COLUMNS[:3]]
        reached = sum(item["reached"] for item in found)
        setting = "{:g}, {:g}".format(*settings[WAYS[name][0]])
        lines.append(f"| {name} | {setting} | {' | '.join(cells)} | {reached:.0f} of {seeds} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + f"\n\nControl, of the taught model: {nll['control-audit']:.2f}."


# What `chosen` found on another world.
SETTINGS = {"grad-diff": (1.0, 3e-3), "sum": (1.0, 1e-3)}


@pytest.fixture(scope="module")
def kept(world, taught):
    """Retain NLL where forget is as unlikely as control, of a way, per seed."""
    found: dict[str, list[float]] = {}

    def at_controls(name):
        if name not in found:
            runs = [way(world, taught, name, SETTINGS, seed) for seed in SEEDS]
            found[name] = [item["retain NLL at control's"] for item in runs]
        return found[name]

    return at_controls


@pytest.mark.slow
def test_gu_keeps_more_than_the_plain_sum_and_random_directions_do_not(kept):
    ours, plain, random = (kept(name) for name in ("gu, grad-diff", "grad-diff", "gu, grad-diff, random directions"))
    assert all(own < other - 0.05 for own, other in zip(ours, plain, strict=True))
    assert all(own < other - 0.05 for own, other in zip(ours, random, strict=True))
    assert all(abs(other - same) < 0.05 for other, same in zip(random, plain, strict=True))


@pytest.mark.slow
def test_ofmus_cosine_keeps_more_than_its_rounds_alone_but_not_more_than_a_weighted_sum(kept):
    ours, alone, summed = (kept(name) for name in ("ofmu", "ofmu, no cosine, no penalty", "weighted sum, forget 0.3"))
    assert mean(ours) < mean(alone) - 0.05
    assert mean(ours) > mean(summed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(SEEDS)
    made = table(count)
    text = f"""# One gradient of two, at equal passes

Made by `python -m tests.reproductions.test_combined {count}` on one thread: the tiny world of the reproductions,
{PASSES} passes of 16 records, a Hessian product counted as two, no weight decay, no stopping rule. Forget weight and
rate are the first at which the plain sum reached control's level on another world; a weighted sum of 0.3 has 0.3 times
that weight. NLL in nats per token, teacher forced; retain are records that no method received. "At control's": where
forget first was as unlikely as the control records are, looked at every {LOOK} updates on {LOOKED_AT} records of each
set. Mean over {count} seeds (of the order of records) and its 95% interval by Student's t.

{made}
"""
    write_atomic(Path(__file__).parent / "results" / "combined.md", text)
