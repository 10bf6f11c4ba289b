"""Rounding to 4 bits brings back what was forgotten, where the original lies on a 4-bit grid: DurableUn and SURE.

The original is a model whose every linear weight is the centre of an INT4 bin, as checkpoints are that were trained for
quantization or dequantized. Unlearning at a small rate leaves most weights in their bins, and rounding puts them back.
Every run stops when the forgotten records are no better known than unseen ones at full precision (those that look at
INT4: there too), so that runs are compared at the same forgetting. Retain and control are records that no method and no
stopping rule received.

It would be falsified by no gap at a small rate, by a gap at INT8, by a gap of the retrained model or of the float one,
or by a recovered share that does not fall with the share of weights that left their bins. `durableun_table.py` prints
the figures over several seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from statistics import fmean

import pytest
import torch

from remanent.core.quantization import codes, step_size
from remanent.core.weights import Weights

from .recovery import INT4, PLAIN, RATES, Found, find, unlearned
from .world import State, World

SEEDS = (0, 1, 2)
ONE_SEED_AND_TWO_MORE = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:]))

Measured = Callable[[str, int], Found]


@pytest.fixture(scope="module")
def measured(world: World, snapped: State) -> Measured:
    """What comes of a way of unlearning from the snapped original, by seed; each is trained once."""
    return cache(lambda name, seed: find(world, snapped, unlearned(world, snapped, name, seed)))


@pytest.mark.parametrize("seed", SEEDS)
def test_int4_brings_back_what_int8_leaves_forgotten(measured, seed):
    found = measured(PLAIN, seed)
    assert found.forget["full"] > found.control["full"] - 0.5  # it had forgotten
    assert abs(found.recovered("int8")) < 0.02
    assert found.recovered("int4") > 0.3
    assert found.forget_accuracy["int4"] > found.forget_accuracy["full"] + 0.1
    # Unseen records come back as well, since their form does; the forgotten ones come back further.
    assert found.control["int4"] - found.forget["int4"] > found.control["full"] - found.forget["full"] + 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_recovered_share_falls_as_weights_leave_their_bins(measured, seed):
    ladder = [measured(f"NPO {rate:g}", seed) for rate in RATES]
    moved, recovered = [found.moved for found in ladder], [found.recovered("int4") for found in ladder]
    assert moved == sorted(moved)
    assert moved[-1] > moved[0] + 0.2
    assert recovered == sorted(recovered, reverse=True)
    assert recovered[0] > recovered[1] + 0.2 > recovered[2] + 0.2


def test_a_float_original_shows_no_gap(world, taught):
    found = find(world, taught, unlearned(world, taught, PLAIN, 0))
    assert abs(found.recovered("int4")) < 0.1


def test_a_retrained_model_shows_no_gap(world, taught, retrained):
    assert abs(find(world, taught, retrained).recovered("int4")) < 0.05


def test_weights_that_stayed_in_their_bins_are_the_original_again(world, snapped):
    """The positive control: whatever moves no weight out of its bin, rounding undoes it to the last one."""
    generator = torch.Generator().manual_seed(0)
    shaken = dict(snapped)
    names = INT4.moving(Weights.of(world.model))
    for name in names:
        weight = snapped[name]
        # The largest of each row stay, since they are its scale.
        inside = codes(weight, INT4.quantization).abs() < 7
        noise = 2 * torch.rand(weight.shape, generator=generator) - 1
        shaken[name] = weight + 0.49 * noise * inside * step_size(weight, INT4.quantization)
    back = world.moved(shaken, INT4)
    assert all(torch.allclose(back[name], snapped[name], rtol=1e-5, atol=1e-7) for name in names)
    assert world.accuracy(shaken, "forget", INT4) == world.accuracy(snapped, "forget") > 0.95


@pytest.mark.parametrize("seed", ONE_SEED_AND_TWO_MORE)
def test_forgetting_at_rounded_points_too_shrinks_the_gap(measured, seed):
    plain, ours = measured(PLAIN, seed), measured("durable, no directions", seed)
    assert ours.recovered("int4") < plain.recovered("int4") - 0.15
    assert ours.forget["int4"] > ours.control["int4"] - 0.2
    assert plain.forget["int4"] - plain.control["int4"] < ours.forget["int4"] - ours.control["int4"] - 0.1


@pytest.mark.parametrize("seed", ONE_SEED_AND_TWO_MORE)
def test_off_the_retain_gradients_no_more_comes_back(measured, seed):
    """durable with NPO's retain weight of 1, with its directions and without."""
    ours, without = measured("durable", seed), measured("durable, no directions", seed)
    assert ours.recovered("int4") < without.recovered("int4") + 0.05
    assert ours.forget["int4"] > ours.control["int4"] - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("at", ["full", "int4"])
def test_off_the_retain_gradients_more_is_kept(measured, at):
    """Over three seeds: where a run ends is chance, and with it how much a single one keeps."""
    ours, without = ([measured(name, seed) for seed in SEEDS] for name in ("durable", "durable, no directions"))
    print([(one.retain_accuracy[at], other.retain_accuracy[at]) for one, other in zip(ours, without, strict=True)])
    assert fmean(one.retain_accuracy[at] for one in ours) > fmean(one.retain_accuracy[at] for one in without) + 0.02


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS])
def test_saf_shrinks_the_gap_and_pays_at_int4(measured, seed):
    """Whether the retain loss at the rounded point helps is not told by three seeds here: 0.09 nats on one machine, 0.4
    on another."""
    plain, saf = measured("GradDiff", seed), measured("SAF", seed)
    assert saf.recovered("int4") < plain.recovered("int4") - 0.1
    assert saf.retain_accuracy["int4"] < plain.retain_accuracy["int4"] - 0.05
