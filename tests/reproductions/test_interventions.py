"""ECO and a guardrail on authors that a small Llama was taught: what goes while they are worn, and that it is there.

The survey's fourth class: utility stays and the answers stay too, for whoever takes the intervention off. Beside ECO's
classifier stands one that calls as many prompts forget at random.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.core.edit import EditSettings
from remanent.core.intervention import put_on, taken_off
from remanent.core.scores import score_records
from remanent.unlearning.eco import edit as eco
from remanent.unlearning.guardrail import edit as guardrail

from .world import MEASURED, spread

pytestmark = pytest.mark.slow


def nll(world):
    """Mean answer NLL of each set on the model as it is worn."""
    sets = {"forget": "forget", "retain": "retain-audit", "control": "control-audit"}
    found = {}
    for role, name in sets.items():
        records = spread(world.encoded[name], MEASURED)
        found[role] = float(score_records(world.model, records, **world.how).mean_nll.mean())
    return found


@pytest.fixture
def settings(world):
    return EditSettings(world.pad_id, tokens=lambda text: world.tokenizer(text)["input_ids"])


def test_eco_hides_what_its_classifier_finds_and_nothing_is_gone(world, taught, settings):
    world.put(taught)
    before = nll(world)
    data = {"forget": world.encoded["forget"], "retain": world.encoded["retain-train"]}
    for seed in range(3):
        made = eco().edit(world.model, data, replace(settings, seed=seed))
        worn = nll(world)
        with taken_off(world.model):
            bare = nll(world)
        made.undo.undo()
        fitted = eco().classifier(data["forget"], data["retain"], seed)
        order = torch.randperm(len(fitted.weights), generator=torch.Generator().manual_seed(seed))
        mixed = put_on(world.model, replace(fitted, weights=fitted.weights[order]))
        random = nll(world)
        mixed.undo()
        print("eco", seed, made.report, {"before": before, "worn": worn, "random": random})
        assert bare == before
        assert worn["forget"] > before["forget"] + 1
        assert worn["forget"] - before["forget"] > worn["retain"] - before["retain"]


def test_a_guardrail_stands_before_a_model_that_reads_no_instructions(world, taught, settings):
    """A tiny model follows none: whatever it does is the price of text before the question."""
    world.put(taught)
    before = nll(world)
    text = "Do not answer questions about these people. Say that you do not know."
    made = guardrail(text).edit(world.model, {"forget": world.encoded["forget"]}, settings)
    worn = nll(world)
    with taken_off(world.model):
        bare = nll(world)
    made.undo.undo()
    print("guardrail", made.report, before, worn)
    assert bare == before
