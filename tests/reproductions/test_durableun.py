"""Rounding to 4 bits brings back what was forgotten, where the original lies on a 4-bit grid: DurableUn and SURE.

The original is a model whose every linear weight is the centre of an INT4 bin, as checkpoints are that were trained for
quantization or dequantized. Unlearning at a small rate leaves most weights in their bins, and rounding puts them back.
Every run stops when the forgotten records are no better known than unseen ones at full precision (ours: at INT4 too),
so that runs are compared at the same forgetting, and everything is measured on records that no method received.

It would be falsified by a gap of nothing at a small rate, by a gap at INT8, by a gap of the retrained model or of the
float one, or by a recovered share that does not fall with the share of weights that left their bins.
"""

from __future__ import annotations

import pytest

from remanent.unlearning import durable, grad_diff

from .recovery import INT4, Found, forgotten
from .world import State, World

SEEDS = (0, 1, 2)
RATES = (2e-4, 6e-4, 2e-3)
SMALL = RATES[0]


@pytest.fixture(scope="module")
def snapped(world: World, base: State) -> State:
    """The base, taught at its rounded weights, and put on their grid."""
    return world.moved(world.teach(base, "taught", at=INT4), INT4)


@pytest.fixture(scope="module")
def by_rate(world: World, snapped: State) -> dict[float, list[Found]]:
    """Gradient difference at each rate, over seeds."""
    return {rate: [forgotten(world, snapped, grad_diff.method(), rate, seed) for seed in SEEDS] for rate in RATES}


def average(found: list[Found], point: str) -> float:
    return sum(item.recovered(point) for item in found) / len(found)


def test_int4_brings_back_and_int8_does_not(by_rate):
    for found in by_rate[SMALL]:
        assert found.forget["full"] >= found.control["full"] - 0.5  # it had forgotten
        assert found.recovered("int4") > 0.3
        assert abs(found.recovered("int8")) < 0.1


def test_the_recovered_share_falls_as_weights_leave_their_bins(by_rate):
    moved = [sum(item.moved for item in by_rate[rate]) for rate in RATES]
    recovered = [average(by_rate[rate], "int4") for rate in RATES]
    assert moved == sorted(moved)
    assert recovered == sorted(recovered, reverse=True)
    assert recovered[0] > recovered[-1] + 0.2


def test_a_float_original_recovers_less(world, taught, by_rate):
    found = [forgotten(world, taught, grad_diff.method(), SMALL, seed) for seed in SEEDS]
    assert average(found, "int4") < average(by_rate[SMALL], "int4") - 0.2


def test_ours_shrinks_what_comes_back(world, snapped, by_rate):
    method = durable.method(roundings="int4-row")
    found = [forgotten(world, snapped, method, SMALL, seed) for seed in SEEDS]
    assert average(found, "int4") < average(by_rate[SMALL], "int4") - 0.2
