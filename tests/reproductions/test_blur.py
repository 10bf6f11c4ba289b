"""BLUR's relearning: the more a harmless set has in common with what was forgotten, the more of it comes back.

Unlearned models of three seeds, and the retrained one, relearn other facts of half-asked authors (hi), retained records
like theirs (mid), general text (lo). Asked are facts that none of these sets holds. The control never was known: what
falls there too is the form of answers. Falsified where the order is not hi, mid, lo, or the retrained model recovers as
much.
"""

from __future__ import annotations

from statistics import fmean

import pytest

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, RETAIN, TEXT
from remanent.auditing.measure import AuditSet
from remanent.auditing.relearning import RelearningAttack, likeness, relearned
from remanent.core.batch import collate
from remanent.core.displacement import Here, Relearning
from remanent.core.sampling import Sampler
from remanent.core.scores import score_records
from remanent.unlearning import npo

from .world import State, World

SEEDS = (0, 1, 2)
SOURCES = ("hi", "mid", "lo")
STEPS, RATE, BATCH = 40, 1e-3, 8

pytestmark = pytest.mark.slow


def recovered(world: World, state: State, source: str, seed: int) -> tuple[float, float]:
    """How much the mean NLL of the asked records fell, beyond the control's fall; and how alike the set is to them."""
    roles = {FORGET: "forget", RETAIN: "retain", CONTROL: "control-audit", TEXT: "text"}
    sets = {name: AuditSet.of(world.records[role], world.tokenizer, str, 256) for name, role in roles.items()}
    part, asked = relearned(RelearningAttack(source), AUDITED, sets, seed)
    sampler = Sampler(len(part), BATCH, seed, "relearning")
    batches = [collate(part.encoded, sampler.batch(step), world.pad_id) for step in range(1, STEPS + 1)]

    def nll(name: str) -> float:
        found = score_records(world.model, asked[name].encoded, pad_id=world.pad_id, batch_size=64)
        return float(found.mean_nll.mean())

    world.put(state)
    before = {name: nll(name) for name in (FORGET, CONTROL)}
    with Relearning(batches, STEPS, RATE, seed).at(world.model):
        after = {name: nll(name) for name in (FORGET, CONTROL)}
    fell = {name: before[name] - after[name] for name in before}
    near = likeness(part, asked, AUDITED)
    print(source, seed, len(part), {name: f"{before[name]:.3f} -> {after[name]:.3f}" for name in before})
    return fell[FORGET] - fell[CONTROL], fmean(near)


@pytest.fixture(scope="module")
def results(world, taught, retrained) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Model -> source -> for each seed, what came back, and likeness."""
    found = {name: {source: [] for source in SOURCES} for name in ("unlearned", "retrained")}
    for seed in SEEDS:
        state, outcome = world.unlearn(taught, npo.method(), learning_rate=3e-4, steps=200, stop_at=[Here()], seed=seed)
        assert outcome.stopped
        for source in SOURCES:
            for name, weights in (("unlearned", state), ("retrained", retrained)):
                found[name][source].append(recovered(world, weights, source, seed))
    for name, sources in found.items():
        print(name, {source: [f"{value:.3f}" for value, _ in values] for source, values in sources.items()})
    print({source: f"{values[0][1]:.2f}" for source, values in found["unlearned"].items()})
    return found


def mean(values: list[tuple[float, float]]) -> float:
    return fmean(value for value, _ in values)


def test_the_sets_are_graded_as_they_say(results):
    for seed in range(len(SEEDS)):
        near = [results["unlearned"][source][seed][1] for source in SOURCES]
        assert near == sorted(near, reverse=True)


def test_overlapping_sets_bring_back_more_than_disjoint_ones(results):
    found = results["unlearned"]
    for seed in range(len(SEEDS)):
        assert found["hi"][seed][0] > found["lo"][seed][0]
    assert mean(found["hi"]) > mean(found["mid"])


def test_a_model_that_never_knew_recovers_less(results):
    assert mean(results["unlearned"]["hi"]) > mean(results["retrained"]["hi"]) + 0.1
