"""BLUR's relearning: the more a harmless set has in common with what was forgotten, the more of it comes back.

    python -m tests.reproductions.test_blur [seeds]

writes results/blur.md beside this file, and goes on where it was cut off. Each seed is a world of its own. The
unlearned model and the retrained one relearn other facts of half-asked authors (hi), retained records like theirs
(mid), general text (lo). Asked are facts that none of these sets holds. The control never was known: what
falls there too is the form of answers. Falsified where lo brings back as much as the others, or the retrained model
recovers as much. Between hi and mid no difference was found.
"""

from __future__ import annotations

import sys
from statistics import fmean

import pytest
import torch

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, RETAIN, TEXT
from remanent.auditing.measure import AuditSet
from remanent.auditing.relearning import RelearningAttack, likeness, relearned
from remanent.core.batch import collate
from remanent.core.displacement import Here, Relearning
from remanent.core.files import write_atomic
from remanent.core.sampling import Sampler
from remanent.core.scores import score_records
from remanent.unlearning import npo

from .study_rows import RESULTS, Rows, markdown, mean_and_interval
from .world import State, World

SEEDS = (0, 1, 2)
SOURCES = ("hi", "mid", "lo")
STEPS, RATE, BATCH = 40, 1e-3, 8

pytestmark = pytest.mark.slow


def recovered(
    world: World, state: State, source: str, seed: int, steps: int = STEPS, rate: float = RATE
) -> tuple[float, float]:
    """How much the mean NLL of the asked records fell, beyond the control's fall; and how alike the set is to them."""
    roles = {FORGET: "forget", RETAIN: "retain", CONTROL: "control-audit", TEXT: "text"}
    sets = {name: AuditSet.of(world.records[role], world.tokenizer, str, 256) for name, role in roles.items()}
    part, asked = relearned(RelearningAttack(source), AUDITED, sets, seed)
    sampler = Sampler(len(part), BATCH, seed, "relearning")
    batches = [collate(part.encoded, sampler.batch(step), world.pad_id) for step in range(1, steps + 1)]

    def nll(name: str) -> float:
        found = score_records(world.model, asked[name].encoded, **world.how)
        return float(found.mean_nll.mean())

    world.put(state)
    before = {name: nll(name) for name in (FORGET, CONTROL)}
    with Relearning(batches, steps, rate, seed, world.how["autocast"]).at(world.model):
        after = {name: nll(name) for name in (FORGET, CONTROL)}
    fell = {name: before[name] - after[name] for name in before}
    near = likeness(part, asked, AUDITED)
    return fell[FORGET] - fell[CONTROL], fmean(near)


def of_seed(seed: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Model -> source -> what came back, and likeness, in a world of its own."""
    world = World(seed=seed)
    base = world.base()
    taught = world.teach(base, "taught")
    state, outcome = world.unlearn(taught, npo.method(), learning_rate=3e-4, steps=200, stop_at=[Here()], seed=seed)
    assert outcome.stopped
    states = {"unlearned": state, "retrained": world.teach(base, "retain")}
    return {
        name: {source: recovered(world, weights, source, seed) for source in SOURCES}
        for name, weights in states.items()
    }


def table(seeds: list[dict[str, dict[str, tuple[float, float]]]]) -> str:
    """Every source as Markdown: means and intervals."""
    lines = []
    for source in SOURCES:
        back = {name: [found[name][source][0] for found in seeds] for name in ("unlearned", "retrained")}
        more = [one - two for one, two in zip(*back.values(), strict=True)]
        likeness = [found["unlearned"][source][1] for found in seeds]
        lines.append([source, *map(mean_and_interval, (likeness, *back.values(), more))])
    return markdown(["set", "likeness", "unlearned", "retrained", "unlearned minus retrained"], lines)


@pytest.fixture(scope="module")
def results():
    """Model -> source -> for each seed, what came back, and likeness."""
    found = [of_seed(seed) for seed in SEEDS]
    print(table(found))
    return {name: {source: [seed[name][source] for seed in found] for source in SOURCES} for name in found[0]}


def mean(values: list[tuple[float, float]]) -> float:
    return fmean(value for value, _ in values)


def test_the_sets_are_graded_as_they_say(results):
    for seed in range(len(SEEDS)):
        near = [results["unlearned"][source][seed][1] for source in SOURCES]
        assert near == sorted(near, reverse=True)


def test_overlapping_sets_bring_back_more_than_disjoint_ones(results):
    found = results["unlearned"]
    for seed in range(len(SEEDS)):
        assert min(found[source][seed][0] for source in ("hi", "mid")) > found["lo"][seed][0] + 0.2


def test_a_model_that_never_knew_recovers_less(results):
    assert mean(results["unlearned"]["hi"]) > mean(results["retrained"]["hi"]) + 0.1


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(SEEDS)
    rows = Rows(RESULTS / "blur.jsonl")
    made = table([rows.get(str(seed), lambda seed=seed: of_seed(seed)) for seed in range(count)])
    text = f"""# What harmless relearning brings back

Made by `python -m tests.reproductions.test_blur {count}` on one thread: {count} worlds of fictitious authors, a Llama
of two layers and width 64, NPO at rate 3e-4 until forget is no better known than unseen records of the select split,
then {STEPS} updates of {BATCH} records at rate {RATE:g}. Figures: by how many nats per token the mean NLL of the asked
forgotten records fell, beyond the fall of unseen records. Likeness: mean over a set's records of the largest TF-IDF
cosine to what is asked. Mean over worlds and its 95% interval by Student's t.

{made}
"""
    write_atomic(RESULTS / "blur.md", text)
