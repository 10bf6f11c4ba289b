"""Flat and durable unlearning against durable and against its own parts, all ended by a rule at full precision and at
int4-row: what is lost of retained records that no method was given.

Falsified where durable loses as little, or it without a part: with the retained answers' likelihood in place of the
divergence, without the roundings, or with neither the roundings nor the worst point; the parts are asked at the weight
that small models like. What relearning brings back is in `trilemma_study.py`, over fresh worlds, and SmolLM2 in
`smollm2_study.py`; `test_committed.py` holds their rows.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from remanent.core.displacement import Here, Rounding
from remanent.core.method import Method
from remanent.unlearning import durable, flat_durable, npo
from remanent.unlearning.npo import NPO

from .world import State, World

WHOLE = flat_durable.method(retain_weight=32.0)
PARTS = {
    "likelihood": replace(WHOLE, objective=NPO(), weights={"forget": 1.0, "retain": 8.0}),
    "no roundings": flat_durable.method(retain_weight=32.0, roundings=""),
    "divergence alone": npo.method(retain_loss="kl", retain_weight=32.0),
}


def lost(world: World, taught: State, method: Method, seed: int) -> float:
    """Nats by which retained records became less likely, where the forgotten are no better known than unseen ones."""
    at = [Here(), Rounding("int4-row")]
    state, outcome = world.unlearn(
        taught, method, learning_rate=3e-4, steps=200, stop_at=at, evaluate_every=10, seed=seed
    )
    assert outcome.stopped
    return max(world.nll(state, "retain-audit", point) - world.nll(taught, "retain-audit", point) for point in at)


def test_it_loses_half_of_what_durable_does(world: World, taught: State) -> None:
    assert lost(world, taught, flat_durable.method(), 0) < 0.6 * lost(world, taught, durable.method(), 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_and_less_than_without_a_part(world: World, taught: State, seed: int) -> None:
    whole = lost(world, taught, WHOLE, seed)
    assert whole < 0.5 * lost(world, taught, durable.method(), seed)
    assert all(whole < 0.9 * lost(world, taught, part, seed) for part in PARTS.values())
