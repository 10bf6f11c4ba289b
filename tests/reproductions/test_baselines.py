"""What sets the baselines apart: ascent alone destroys what is kept, and NPO fades where ascent does not.

It would be falsified if ascent alone kept the retain set as well as the methods with a retain loss do, or if NPO went
on forgetting as ascent does.
"""

from __future__ import annotations

import pytest

from remanent.unlearning import grad_ascent, grad_diff, npo, simnpo

SEEDS = (0, 1)
STEPS, RATE = 30, 1e-3


@pytest.fixture(scope="module")
def after(world, taught):
    """Method -> (forget, retain) NLL on records that no method received, per seed, at equal steps."""
    ways = {
        "grad-ascent": grad_ascent.method(),
        "grad-diff": grad_diff.method(),
        "npo": npo.method(),
        "simnpo": simnpo.method(),
    }
    found = {}
    for name, method in ways.items():
        states = [world.unlearn(taught, method, learning_rate=RATE, steps=STEPS, seed=seed)[0] for seed in SEEDS]
        found[name] = [(world.nll(state, "forget"), world.nll(state, "retain-audit")) for state in states]
    return found


def test_every_method_forgets(world, taught, after):
    before = world.nll(taught, "forget")
    for name, found in after.items():
        # SimNPO's forget loss weighs an eighth by default, and goes slower at equal steps.
        least = 0.0 if name == "simnpo" else 0.5
        assert all(forget > before + least for forget, _ in found), name


def test_ascent_alone_destroys_what_a_retain_loss_keeps(after):
    for index in range(len(SEEDS)):
        for name in ("grad-diff", "npo", "simnpo"):
            assert after["grad-ascent"][index][1] > after[name][index][1] + 1.0, name


def test_npo_is_bounded_where_ascent_is_not(after):
    for index in range(len(SEEDS)):
        assert after["npo"][index][0] < after["grad-ascent"][index][0] - 1.0
