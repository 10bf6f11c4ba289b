"""What every edit must obey that puts an intervention round a model. A new one is tested here without being named."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from remanent.core.catalogue import build_edit, edits, restored_intervention
from remanent.core.edit import EditSettings
from remanent.core.intervention import put_on, taken_off, worn
from remanent.core.packed import keep_as_packed
from remanent.models.worn import put_on_saved, write_worn

NAMES = [name for name, entry in edits().items() if hasattr(importlib.import_module(entry.module), "restored")]
CHEAP = {"epochs": 2.0, "batch_size": 4, "learning_rate": 1e-2, "hooks": True, "width": 4, "rank": 2}
IDS = torch.tensor([[1, 7, 5, 3], [1, 9, 4, 8]])


@pytest.fixture(params=NAMES)
def name(request, view):
    assert view in edits()[request.param].system.views
    return request.param


@pytest.fixture
def data(make_records):
    return {"forget": make_records(6, seed=1), "retain": make_records(8, seed=2)}


def edited(name, model, data):
    known = edits()[name].hyperparameters
    given = {key: value for key, value in CHEAP.items() if key in known}
    if name == "pga-projection":
        given = {"hooks": True}  # its rank belongs to another of its directions
    edit = build_edit(name, given)
    passed, said = [], []
    settings = EditSettings(on_batch=passed.append, on_warning=said.append, tokens=lambda text: [11, 12])
    made = edit.edit(model, {role: data[role] for role in edit.roles}, settings)
    assert sum(passed) == edit.passes({role: len(records) for role, records in data.items()})
    return made


def logits(model):
    keep_as_packed(model)
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.clone()


def test_the_model_stays_and_taken_off_it_answers_as_before(name, make_model, data, snapshot, same_bits):
    model = make_model()
    next(part for part_name, part in model.named_modules() if part_name.endswith("layers.0.mlp")).requires_grad_(False)
    before, plain = snapshot(model), logits(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    made = edited(name, model, data)
    assert made.report["weights_changed"] == 0
    assert same_bits(snapshot(model), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(logits(model), plain) or name == "eco"  # eco leaves prompts that it does not find
    with taken_off(model):
        assert torch.equal(logits(model), plain)
    made.undo.undo()
    assert worn(model) == ()
    assert torch.equal(logits(model), plain)


def test_it_is_the_same_each_time_and_from_what_was_saved(name, make_model, data, tmp_path):
    first, second, third = make_model(), make_model(), make_model()
    edited(name, first, data)
    torch.manual_seed(4321)
    edited(name, second, data)
    assert torch.equal(logits(first), logits(second))
    write_worn(first, tmp_path)
    put_on_saved(third, tmp_path)
    assert torch.equal(logits(third), logits(first))


def test_what_was_made_on_an_adapter_fits_the_merged_model(name, view, make_model, data):
    """`save(merged=True)` leaves the plain model, whose parts have other names."""
    if view != "lora":
        pytest.skip("nothing to merge, or a base that nothing is merged into")
    model = make_model()
    edited(name, model, data)
    [item] = worn(model)
    merged = make_model().merge_and_unload()
    settings = json.loads(json.dumps(dict(item.settings)))
    put_on(merged, restored_intervention(item.kind, settings, item.tensors))
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_it_generates_the_same_with_and_without_a_cache(name, beams, make_model, data):
    model = make_model()
    edited(name, model, data)
    keep_as_packed(model)
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    ids = torch.tensor([[0, 7, 5, 3], [1, 9, 4, 8]])
    how["attention_mask"] = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    if name == "eco":
        pytest.skip("eco corrupts what begins a text; without a cache every token begins one")
    cached, without = (model.generate(input_ids=ids, **how, use_cache=cached) for cached in (True, False))
    assert torch.equal(cached, without)
