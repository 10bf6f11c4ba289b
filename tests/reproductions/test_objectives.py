"""The objectives of open-unlearning, LLMU and Who's Harry Potter at equal passes, and what each would be falsified by.

    python -m tests.reproductions.test_objectives [seeds]

writes results/objectives.md beside this file. Every way gets the same number of batch passes (a forward and a backward
pass of 16 records), one learning rate, no stopping rule, and the weights of its losses that its paper has: nothing was
tuned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from remanent.core.files import write_atomic
from remanent.core.loop import with_settings
from remanent.core.method import Method
from remanent.data.encode import encode_all
from remanent.data.refusals import refusals
from remanent.unlearning import ce_u, grad_diff, idk_nll, llmu, npo, pdu, satimp, undial, wga, whp

from .study_rows import mean_and_interval
from .world import State, World

SEEDS = (0, 1, 2)
PASSES, BATCH, RATE = 60, 16, 1e-3

# Name -> how it is made, and its batch passes per update.
WAYS: dict[str, tuple[Callable[[], Method], int]] = {
    "grad-diff": (grad_diff.method, 2),
    "npo": (npo.method, 2),
    "idk-nll": (idk_nll.method, 2),
    "wga": (wga.method, 2),
    "satimp": (satimp.method, 2),
    "undial": (undial.method, 1),
    "ce-u": (ce_u.method, 1),
    "pdu": (pdu.method, 2),
    "llmu": (llmu.method, 3),
    "whp": (lambda: whp.method(reinforce_rate=RATE), 1),
}
# What each is without the part that it adds.
ABLATIONS: dict[str, tuple[Callable[[], Method], int]] = {
    "undial, beta 0": (lambda: undial.method(beta=0.0), 1),
    "pdu, no constraint": (lambda: pdu.method(dual=0.0, dual_step=0.0), 2),
    "llmu, no mismatch": (lambda: llmu.method(mismatch_weight=0.0), 3),
    "whp, alpha 0": (lambda: whp.method(alpha=0.0, reinforce_rate=RATE), 1),
}
_MISMATCH = ("llmu", "llmu, no mismatch")


def unlearned(world: World, taught: State, name: str, seed: int) -> State:
    """A way's model, after its passes."""
    build, passes = {**WAYS, **ABLATIONS}[name]
    method = with_settings(build(), learning_rate=RATE, batch_size=BATCH, schedule="constant", warmup=0.0)
    beforehand = method.passes_beforehand({role: len(records) for role, records in world.encoded.items()})
    method = with_settings(method, steps=(PASSES - -(-beforehand // BATCH)) // passes)
    if "refusal" not in world.encoded:
        world.encoded["refusal"] = encode_all(refusals(world.records["forget"], seed=0), world.tokenizer)
    roles = {"forget": "forget", "retain": "retain-train", "refusal": "refusal"}
    return world.run(taught, method, roles, seed=seed)[0]


def measured(world: World, state: State) -> dict[str, float]:
    """NLL (nats per token) and token accuracy of forget, of retain records that nothing received, and of control."""
    sets = {"forget": "forget", "retain": "retain-audit", "control": "control-audit"}
    nll = {f"{name} NLL": world.nll(state, records) for name, records in sets.items()}
    return nll | {f"{name} accuracy": world.accuracy(state, records) for name, records in sets.items()}


def table(seeds: int) -> str:
    """Every way and ablation as Markdown."""
    world = World()
    taught = world.teach(world.base(), "taught")
    before = measured(world, taught)
    lines = [f"| {' | '.join(['way', *before])} |", "|" + " --- |" * (len(before) + 1)]
    lines.append(f"| taught | {' | '.join(f'{value:.2f}' for value in before.values())} |")
    for name in [*WAYS, *ABLATIONS]:
        found = [measured(world, unlearned(world, taught, name, seed)) for seed in range(seeds)]
        lines.append(
            f"| {name} | {' | '.join(mean_and_interval([item[column] for item in found]) for column in before)} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def over(world, taught):
    """A column of several ways, per seed, each way run once and when it is first asked for; "taught": before."""
    before = [measured(world, taught)] * len(SEEDS)
    known = {"taught": before}

    def column(name: str, *ways: str) -> list[tuple[float, ...]]:
        for way in ways:
            if way not in known:
                known[way] = [measured(world, unlearned(world, taught, way, seed)) for seed in SEEDS]
        return [tuple(known[way][seed][name] for way in ways) for seed in SEEDS]

    return column


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WAYS if name not in ("idk-nll", "whp")])
def test_it_forgets(over, name):
    assert all(after > before + 0.5 for after, before in over("forget NLL", name, "taught"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wga", "satimp"])
def test_weights_on_tokens_bound_what_ascent_does(over, name):
    """Falsified if ascent without the weights kept as much, or stopped as early."""
    assert all(kept < lost - 1.0 for kept, lost in over("retain NLL", name, "grad-diff"))
    assert all(bounded < unbounded for bounded, unbounded in over("forget NLL", name, "grad-diff"))


@pytest.mark.slow
def test_undial_forgets_by_what_it_takes_off(over):
    assert all(abs(after - before) < 0.1 for after, before in over("forget NLL", "undial, beta 0", "taught"))


@pytest.mark.slow
def test_what_has_no_retain_loss_loses_the_rest_too(over):
    """Falsified if the self-limiting gradient of CE-U, or the fixed target of UNDIAL, were enough to keep the rest."""
    for name in ("ce-u", "undial"):
        assert all(after > before + 1.0 for after, before in over("retain NLL", name, "taught"))
    # Not so the labels of whp, most of which are what the model says anyway.
    assert all(after < before + 0.3 for after, before in over("retain NLL", "whp", "taught"))


@pytest.mark.slow
def test_pdu_keeps_by_its_constraint(over):
    pairs = over("retain NLL", "pdu", "pdu, no constraint")
    assert all(constrained < free - 3.0 for constrained, free in pairs)


@pytest.mark.slow
def test_refusals_alone_leave_the_old_answers_in_place(world, taught, over):
    """Falsified if the old answer became as unlikely as where it is pushed away."""
    assert all(refused < pushed - 1.0 for refused, pushed in over("forget NLL", "idk-nll", "npo"))
    # The refusal became far likelier, while the old answer is still the likelier of the two.
    refusing = unlearned(world, taught, "idk-nll", 0)
    assert world.nll(refusing, "refusal") < world.nll(taught, "refusal") - 2.0
    assert world.nll(refusing, "forget") < world.nll(refusing, "refusal") - 1.0


@pytest.mark.slow
def test_llmu_makes_answers_likelier_that_do_not_belong(world, taught):
    """Falsified if ascent and the divergence did it without the mismatch."""
    answers = [record.answer for record in world.records["retain-train"]]
    asked = world.records["forget"]
    wrong = [replace(record, answer=answers[index % len(answers)]) for index, record in enumerate(asked)]
    world.encoded["mismatched"] = encode_all(wrong, world.tokenizer)
    for seed in SEEDS:
        own, without = (world.nll(unlearned(world, taught, name, seed), "mismatched") for name in _MISMATCH)
        assert own < without - 0.5


@pytest.mark.slow
def test_whp_forgets_by_what_reinforcement_raised(over):
    """Falsified if the model's own labels, which fine-tuning on them keeps, made it forget as much."""
    triples = over("forget NLL", "whp", "whp, alpha 0", "taught")
    assert all(after > before + 0.2 for after, _, before in triples)
    assert all(abs(own - before) < 0.1 for _, own, before in triples)


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(SEEDS)
    made = table(count)
    command = f"python -m tests.reproductions.test_objectives {count}"
    text = f"""# Objectives at equal passes

Made by `{command}` on one thread: the tiny world of the reproductions, {PASSES} batch passes of {BATCH} records each,
learning rate {RATE:g} for all, no stopping rule, the papers' weights of the losses, nothing tuned. Passes at the
reference are not counted, those of whp's reinforced model are. Mean over {count} seeds (of the order of
records) and its 95% interval by Student's t. Answers are scored teacher forced, in nats per token; retain are records
that no method received, control records that no model was taught.

{made}
"""
    write_atomic(Path(__file__).parent / "results" / "objectives.md", text)
