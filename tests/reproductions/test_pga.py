"""PGA on projects whose codes a small Llama knows by heart: what a probe sees, what goes, and whether recall goes too.

    python -m tests.reproductions.test_pga [seeds]

writes results/pga.md beside this file, and goes on where it was cut off.
The codes of half the projects are aligned or erased; the other half stands for what the eraser never saw. Beside the
probe's direction stands a random one of the same rank. Falsified where the random direction does as well.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch.nn import functional

from remanent.auditing.cross_sequence import cross_sequence
from remanent.core.displacement import Erasure, Subspace
from remanent.core.files import write_atomic
from remanent.core.loop import with_settings
from remanent.core.separation import paired, separation
from remanent.unlearning.pga import PGAMethod, method
from remanent.unlearning.pga_projection import PGAProjection

from .codes import KEYS, Codes
from .study_rows import RESULTS, Rows, markdown, mean_and_interval

SEEDS = range(3)
ALL, SEEN, UNSEEN = range(KEYS), range(KEYS // 2), range(KEYS // 2, KEYS)
FORMS = {
    "hooks": PGAProjection(),
    "hooks, 5 rounds": PGAProjection(rounds=5),  # an attacker fits again on what is left
    "hooks, spectral 3": PGAProjection(directions="spectral", rank=3),
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the fixture trains 15 models


class RandomDirections(PGAMethod):
    """As many directions, drawn in the place of the probes'."""

    def fitted(self, model):
        generator = torch.Generator().manual_seed(7)
        found = super().fitted(model)
        return {d: functional.normalize(torch.randn(len(w), generator=generator), dim=0) for d, w in found.items()}


def key(record):
    return int(record.group.lstrip("abcdefghijklmnopqrstuvwxyz"))


def of(records, keys):
    return [record for record in records if key(record) in keys]


def told_apart(codes, state, kinds, at=None, keys=ALL, permutations=0):
    """Separation of two kinds at the last depth, one project of each held out."""
    states = [codes.states(state, kind, at)[codes.depths[-1]] for kind in kinds]
    rows = [torch.tensor([key(record) in keys for record in codes.probed[kind]]) for kind in kinds]
    groups = [[record.group for record in of(codes.probed[kind], keys)] for kind in kinds]
    both = torch.cat([part[chosen] for part, chosen in zip(states, rows, strict=True)])
    positive = torch.arange(len(both)) < len(groups[0])
    return separation(both, positive, paired(*groups), permutations=permutations)


def drawn(erasure):
    """The erasure with as many random directions at each depth."""
    generator = torch.Generator().manual_seed(5)
    return Erasure(
        {
            depth: Subspace(torch.linalg.qr(torch.randn(item.basis.shape, generator=generator)).Q, item.mean)
            for depth, item in erasure.subspaces.items()
        }
    )


def facts(codes, state, keys, at=None):
    secret = codes.probed["secret"]
    return {
        "seen by the eraser": told_apart(codes, state, ("secret", "public"), at, keys).accuracy,
        "not seen": told_apart(codes, state, ("secret", "public"), at, UNSEEN).accuracy,
        "nll": codes.nll(state, of(secret, keys), at),
        "nll not seen": codes.nll(state, of(secret, UNSEEN), at),
        "nll public": codes.nll(state, codes.probed["public"], at),
    }


def of_codes(codes, forms=FORMS, steps=200, rate=3e-4):
    """way -> figures."""
    retain = codes.draw("public", 16)
    ranks: dict[str, float] = {}
    rows = {
        "ranks": ranks,
        "taught": facts(codes, codes.taught, ALL),
        "null": {
            "guessed against guessed": told_apart(codes, codes.taught, ("public", "other")).accuracy,
            "untaught network": told_apart(codes, codes.start, ("secret", "public")).accuracy,
            "p": told_apart(codes, codes.taught, ("secret", "public"), permutations=19).p,
        },
    }
    for name, keys in (("all", ALL), ("half", SEEN)):
        chosen = [of(codes.probed[kind], keys) for kind in ("secret", "public")]
        for form, projection in forms.items():
            codes.put(codes.taught)
            erasure = projection.erase(codes.model, *chosen)
            rows[f"{form}, {name}"] = facts(codes, codes.taught, keys, erasure)
            rows[f"{form}, {name}, random"] = facts(codes, codes.taught, keys, drawn(erasure))
            ranks[f"{form}, {name}"] = fmean(item.rank for item in erasure.subspaces.values())
    plain = with_settings(method(), learning_rate=rate, steps=steps, batch_size=16)
    for name, keys, trained in (
        ("all", ALL, plain),
        ("half", SEEN, plain),
        ("half, random", SEEN, RandomDirections(plain.objective, weights=plain.weights, recipe=plain.recipe)),
        ("half, none", SEEN, replace(plain, weights={"align": 0.0, "retain": 1.0})),
    ):
        state = codes.train(codes.taught, trained, of(codes.probed["secret"], keys), of(retain, keys))
        rows[f"trained, {name}"] = facts(codes, state, keys)
    return rows


def as_markdown(seeds):
    """Every way as Markdown: means and intervals."""
    ways = [way for way in seeds[0] if way not in ("null", "ranks")]
    figures = list(seeds[0]["taught"])
    lines = [[way, *(mean_and_interval([found[way][key] for found in seeds]) for key in figures)] for way in ways]
    null = ", ".join(
        f"{key} {mean_and_interval([found['null'][key] for found in seeds])}" for key in seeds[0]["null"] if key != "p"
    )
    ranks = "; ".join(
        f"{form} {mean_and_interval([found['ranks'][form] for found in seeds])}" for form in seeds[0]["ranks"]
    )
    return (
        f"{markdown(['way', *figures], lines)}\n\n"
        f"Accuracy of the same probe where there is nothing to see: {null}.\n"
        f"Directions at a depth, mean over depths: {ranks}."
    )


@pytest.fixture(scope="module")
def table():
    """For each seed, way -> figures."""
    found = [of_codes(Codes(seed)) for seed in SEEDS]
    print(as_markdown(found))
    return found


def mean(table, way, figure):
    return fmean(rows[way][figure] for rows in table)


def test_what_was_learnt_by_heart_looks_so_and_nothing_does_in_a_random_network(table):
    assert mean(table, "taught", "seen by the eraser") > 0.9
    assert all(rows["null"]["p"] <= 0.05 for rows in table)
    assert fmean(rows["null"]["untaught network"] for rows in table) == pytest.approx(0.5, abs=0.15)
    assert mean(table, "taught", "nll") < 0.1


def test_below_chance_is_what_the_eraser_saw(table):
    """Held-out projects that it did see are told apart worse than those that it did not: that is the artefact."""
    assert mean(table, "trained, half", "seen by the eraser") < mean(table, "trained, half", "not seen")


def test_alignment_hides_from_the_probe_what_random_directions_do_not(table):
    assert mean(table, "trained, half", "seen by the eraser") < 0.65
    assert mean(table, "trained, half, random", "seen by the eraser") > 0.8


def test_spectral_directions_take_recall_that_as_many_random_ones_leave(table):
    """With every seed, of projects that the eraser saw and of those that it did not. What is guessed stays guessed."""
    for rows in table:
        ours, random = rows["hooks, spectral 3, half"], rows["hooks, spectral 3, half, random"]
        assert ours["nll"] > random["nll"] + 1.0
        assert ours["nll not seen"] > random["nll not seen"] + 1.0
        assert abs(ours["nll public"] - rows["taught"]["nll public"]) < 0.1


def test_negative_recall_goes_without_any_alignment(table):
    """The retain loss alone takes as much of it: what falls is no doing of the probe's direction."""
    assert mean(table, "trained, half, none", "nll") > mean(table, "taught", "nll") + 0.5
    assert abs(mean(table, "trained, half", "nll") - mean(table, "trained, half, none", "nll")) < 0.5


def test_authors_that_were_taught_look_like_others_and_erasing_takes_no_answer(world, taught):
    """In the world of authors a probe finds nothing to erase, and one direction less leaves answers where they were."""
    world.put(taught)
    gaps = cross_sequence(
        world.model,
        world.tokenizer,
        world.records["forget"],
        world.records["control"],
        contexts=("", "Here is a passage: "),
        depths=(1, 2),
        permutations=0,
    )
    print([(gap.depth, gap.taught.accuracy, gap.unseen.accuracy, gap.distance_gap, gap.low, gap.high) for gap in gaps])
    assert all(gap.low < 0.1 for gap in gaps)
    erasure = PGAProjection().erase(world.model, world.encoded["forget"], world.encoded["retain-train"])
    assert world.nll(taught, "forget", erasure) < world.nll(taught, "forget") + 0.1 < world.nll(taught, "control")


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(SEEDS)
    kept = Rows(RESULTS / "pga.jsonl")
    every = [kept.get(str(seed), lambda seed=seed: of_codes(Codes(seed))) for seed in range(count)]
    made = as_markdown([{way: row for way, row in found.items() if way != "name"} for found in every])
    text = f"""# PGA against random directions

Made by `python -m tests.reproductions.test_pga {count}` on one thread: a Llama of two layers and width 64 that knows
the codes of {KEYS} projects by heart and guesses those of {KEYS} others, the retain set. Two forms: hooks that project
states, of one direction at each depth, of those that an attacker finds in five rounds more, and of three spectral ones;
and training (200 updates at rate 3e-4). Each with its own directions and with as many random ones, and
training with no alignment at all. "half": the eraser saw half of the projects. Accuracy of a linear probe at the last
depth on a held-out project, balanced, among those that the eraser saw and among those that it did not ("taught" and
"all": it saw all). NLL of a digit of the code in nats; 2.30 is a guess. Mean over {count} seeds (names, codes, weights)
and its 95% interval by Student's t.

{made}
"""
    write_atomic(RESULTS / "pga.md", text)
