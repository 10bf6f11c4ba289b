"""What every edit of weights must obey, and that each edit is made on an adapter or says truly why not.

A new one is tested here without being named.
"""

from __future__ import annotations

import importlib

import pytest
import torch

from remanent.core.catalogue import build_edit, edits
from remanent.core.edit import EditSettings
from remanent.errors import InputError, UnsupportedError
from remanent.jobs.config import DataSettings, UnlearnSettings
from remanent.jobs.edit import edit_of

EDITS = edits()
OF_WEIGHTS = [name for name in EDITS if build_edit(name).refuses_adapter]
WORN = [name for name, entry in EDITS.items() if hasattr(importlib.import_module(entry.module), "restored")]
MILD = {"ssd": {"alpha": 1.5}}  # its default finds nothing to scale in records that share nothing
IDS = torch.tensor([[1, 7, 5, 3], [1, 9, 4, 8]])
of_weights = pytest.mark.parametrize("name", OF_WEIGHTS)


@pytest.fixture
def data(make_records):
    return {"forget": make_records(6, seed=1), "retain": make_records(8, seed=2)}


def edited(name, model, data):
    edit = build_edit(name, MILD.get(name))
    passed = []
    made = edit.edit(model, {role: data[role] for role in edit.roles}, EditSettings(on_batch=passed.append))
    assert sum(passed) == edit.passes({role: len(records) for role, records in data.items()})
    return made


def asked(name, view):
    return UnlearnSettings(model="none", data=DataSettings(), method=name, adapter=view)


def test_each_edit_is_held_to_a_contract():
    """An edit of weights that runs on adapters would need one of its own."""
    assert set(EDITS) == {*OF_WEIGHTS, *WORN}
    for name in set(OF_WEIGHTS) - set(WORN):
        assert EDITS[name].system.views == ("full",)


@of_weights
def test_undone_every_bit_is_as_it_was(name, tiny_llama, data, snapshot, same_bits):
    model = tiny_llama().train()
    model.model.layers[0].mlp.requires_grad_(False)
    before, flags = snapshot(model), [parameter.requires_grad for parameter in model.parameters()]
    made = edited(name, model, data)
    after = snapshot(model)
    assert not same_bits(after, before)
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    made.undo.undo()
    assert same_bits(snapshot(model), before)


@of_weights
def test_it_is_the_same_each_time_and_saved_and_loaded(name, tiny_llama, data, snapshot, same_bits, tmp_path):
    from transformers import AutoModelForCausalLM

    first, second = tiny_llama(), tiny_llama()
    edited(name, first, data)
    torch.manual_seed(4321)
    edited(name, second, data)
    assert same_bits(snapshot(first), snapshot(second))
    first.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, first(input_ids=IDS).logits)


@of_weights
def test_on_an_adapter_it_is_refused_and_the_model_stays(name, view, make_model, data, snapshot, same_bits):
    if view == "full":
        pytest.skip("it is made there")
    model, reason = make_model(), build_edit(name).refuses_adapter
    before = snapshot(model)
    with pytest.raises(UnsupportedError) as refused:
        edited(name, model, data)
    assert reason in str(refused.value)
    assert same_bits(snapshot(model), before)
    with pytest.raises(InputError, match=f"adapter: got '{view}'; expected full, since {name}") as early:
        edit_of(asked(name, view))
    assert reason in str(early.value)


@pytest.mark.parametrize("name", [name for name in EDITS if name not in OF_WEIGHTS])
def test_what_moves_no_weight_is_asked_for_with_any_adapter(name, view):
    assert view in EDITS[name].system.views
    assert edit_of(asked(name, view)) == build_edit(name)
