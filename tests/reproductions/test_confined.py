"""What confines an update: masks of what is salient, the retain gradient's subspace, the line of a task vector.

It would be falsified if random weights forgot as fast as the salient ones do, if ascent forgot as fast off the retain
gradient's subspace as on it, or if a negated task vector lost the retained authors as it loses the forgotten ones.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.core.combine import MaskedTerm
from remanent.core.episode import Episode
from remanent.unlearning import alphaedit_projection, grad_diff, salun, sure, task_vector

STEPS, RATE = 30, 1e-3
SHARE = 0.05


@pytest.fixture(scope="module")
def unlearned(world, taught):
    """(forget, retain) NLL after a method, the retain records being none that it received."""

    def run(method, learning_rate=RATE):
        state = world.unlearn(taught, method, learning_rate=learning_rate, steps=STEPS)[0]
        return world.nll(state, "forget"), world.nll(state, "retain-audit")

    return run


@pytest.fixture(scope="module")
def before(world, taught):
    return world.nll(taught, "forget"), world.nll(taught, "retain-audit")


@pytest.mark.parametrize("make", [lambda: salun.method(), lambda: sure.method()], ids=["salun", "sure"])
def test_a_masked_method_loses_the_forget_set_more_than_the_rest(make, unlearned, before):
    forget, retain = unlearned(make(), 2e-3)
    assert forget > before[0] + 0.5
    assert forget - before[0] > retain - before[1]


def test_salient_weights_forget_faster_than_as_many_random_ones(world, taught, unlearned, before):
    world.put(taught)
    chosen = salun.method(share=SHARE, loss="grad-ascent")
    salient = chosen.begin(world.model, Episode("one", "erase", {"forget": world.encoded["forget"]})).mask
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.rand(mask.shape, generator=generator) < SHARE for name, mask in salient.items()}
    drawn = replace(grad_diff.method(), mask=random)
    assert unlearned(chosen)[0] - before[0] > 3 * (unlearned(drawn)[0] - before[0])
    # DurableUn's mask holds the forget gradient alone: 2.9 times as far was found.
    chosen, drawn = salun.method("durableun", share=SHARE), grad_diff.method("durableun-ga")
    drawn = replace(drawn, combine=MaskedTerm("forget", random))
    assert unlearned(chosen)[0] - before[0] > 2 * (unlearned(drawn)[0] - before[0])


def test_off_the_retain_gradients_subspace_ascent_has_little_left(unlearned, before):
    """Most matrices of this model are narrower than the published rank."""
    projected, free = unlearned(alphaedit_projection.method()), unlearned(grad_diff.method())
    assert projected[0] < before[0] + 0.5 * (free[0] - before[0])


def test_a_negated_task_vector_loses_the_forget_set_first_and_more_the_further_it_goes(unlearned, before):
    near, far = unlearned(task_vector.method(1.0)), unlearned(task_vector.method(3.0))
    assert before[0] < near[0] < far[0]
    assert far[0] - before[0] > far[1] - before[1]
