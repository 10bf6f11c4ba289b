"""As-stranger against plain NPO: what is forgotten is what belongs to the names, and unseen records stay as they were.

Falsified where unseen records lose as much as under NPO, or where a stranger that is the record itself forgets as well.
`trilemma_study.py` prints the table over fresh worlds, with certificates and relearning.
"""

from __future__ import annotations

import pytest

from remanent.core.displacement import Here
from remanent.core.loop import with_settings
from remanent.data.encode import encode_all
from remanent.data.entity_swap import strangers, unseen
from remanent.unlearning import as_stranger, npo

from .world import State, World

STEPS, RATE = 80, 1e-3


@pytest.fixture(scope="module")
def asked(world: World) -> World:
    """The world with the strangers of its forget records."""
    world.encoded["stranger"] = encode_all(strangers(world.records["forget"]), world.tokenizer)
    world.encoded["unseen"] = encode_all(unseen(world.records["forget"]), world.tokenizer)
    return world


def unlearned(world: World, taught: State, seed: int, stranger: str = "stranger", other: str = "unseen") -> State:
    method = with_settings(
        as_stranger.method(roundings=""), steps=STEPS, learning_rate=RATE, batch_size=16, schedule="linear", warmup=0.05
    )
    roles = {"forget": "forget", "stranger": stranger, "unseen": other, "retain": "retain-train"}
    return world.run(taught, method, roles, seed=seed)[0]


def known(world: World, state: State) -> dict[str, float]:
    return {name: world.nll(state, name) for name in ("forget", "retain-audit", "control-audit")}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_it_forgets_and_leaves_what_was_never_seen(asked, taught, seed):
    before, after = known(asked, taught), known(asked, unlearned(asked, taught, seed))
    plain, _ = asked.unlearn(taught, npo.method(), learning_rate=3e-4, steps=STEPS, stop_at=[Here()], seed=seed)
    under_npo = known(asked, plain)
    assert after["forget"] - before["forget"] > 0.4
    assert abs(after["control-audit"] - before["control-audit"]) < 0.3
    assert under_npo["control-audit"] - before["control-audit"] > 1.0
    lost, lost_under_npo = (found["retain-audit"] - before["retain-audit"] for found in (after, under_npo))
    assert lost < 0.5 * lost_under_npo
    assert lost < 0.5 * (after["forget"] - before["forget"])


def test_a_stranger_that_is_the_record_itself_forgets_nothing(asked, taught):
    before = known(asked, taught)
    after = known(asked, unlearned(asked, taught, 0, stranger="forget", other="forget"))
    assert abs(after["forget"] - before["forget"]) < 0.1
