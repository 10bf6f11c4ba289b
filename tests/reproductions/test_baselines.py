"""What sets the baselines apart: ascent alone destroys what is kept, and NPO fades where ascent does not.

It would be falsified if ascent alone kept the retain set as well as the methods with a retain loss do, or if NPO went
on forgetting as ascent does.
"""

from __future__ import annotations

import pytest

from remanent.core.loop import with_settings
from remanent.data.encode import encode_all
from remanent.data.refusals import alternatives, refusals
from remanent.unlearning import alt_po, grad_ascent, grad_diff, idk_dpo, kl_min, npo, rmu, scrub, simnpo

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


@pytest.fixture(scope="module")
def unlearned(world, taught):
    """Method -> the state that it leaves, one seed, at equal steps; records of the roles that some ask for."""
    records = world.records["forget"]
    world.encoded["refusal"] = encode_all(refusals(records, seed=0), world.tokenizer)
    world.encoded["alternative"] = encode_all(alternatives(records, seed=0), world.tokenizer)
    roles = {"forget": "forget", "retain": "retain-train", "refusal": "refusal", "alternative": "alternative"}
    ways = {
        "kl-min": (kl_min.method(), RATE, STEPS),
        "idk-dpo": (idk_dpo.method(), RATE, STEPS),
        "alt-po": (alt_po.method(), RATE, STEPS),
        "scrub": (scrub.method(), RATE, 2 * STEPS),  # an update is one batch where the others' are two or three
        "rmu": (rmu.method(layer=-1, steering=4.0, relative=True), 10 * RATE, STEPS),
    }
    found = {}
    for name, (method, rate, steps) in ways.items():
        method = with_settings(method, steps=steps, learning_rate=rate, batch_size=16, schedule="constant", warmup=0.0)
        found[name] = world.run(taught, method, roles)[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl-min", "alt-po", "scrub", "rmu"])
def test_it_forgets_and_keeps_more_than_ascent_alone(world, taught, after, unlearned, name):
    state = unlearned[name]
    forgot = world.nll(state, "forget") - world.nll(taught, "forget")
    lost = world.nll(state, "retain-audit") - world.nll(taught, "retain-audit")
    assert forgot > 0.5
    assert lost < after["grad-ascent"][0][1] - world.nll(taught, "retain-audit") - 1.0
    assert lost < forgot


@pytest.mark.slow
@pytest.mark.parametrize(("name", "answers"), [("idk-dpo", "refusal"), ("alt-po", "alternative")])
def test_what_is_preferred_becomes_likelier_and_by_npo_it_does_not(world, taught, after, unlearned, name, answers):
    """Falsified if naming the answer to prefer did nothing that pushing the other one away does not do."""
    npo_state = world.unlearn(taught, npo.method(), learning_rate=RATE, steps=STEPS)[0]
    assert world.nll(unlearned[name], answers) < world.nll(taught, answers)
    assert world.nll(unlearned[name], answers) < world.nll(npo_state, answers)
    # Refusals alone are content with little: where the refusal is the likelier, the answer may stay almost as likely.
    assert world.nll(unlearned[name], "forget") > world.nll(taught, "forget")
