"""What a model wears: put on, taken off, saved as plain data, and asked without by the audit."""

from __future__ import annotations

import pytest
import torch

from remanent.auditing.audit import audit
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, FORGET, ORIGINAL
from remanent.auditing.plan import AuditData, AuditPlan
from remanent.core.displacement import Erasure, InterventionOff, Subspace
from remanent.core.edit import EditSettings
from remanent.core.intervention import put_on, taken_off, worn
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.errors import InputError, IntegrityError
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny
from remanent.models.worn import FILE
from remanent.unlearning.eco import edit as eco
from remanent.unlearning.eul import edit as eul
from remanent.unlearning.guardrail import Prefix
from remanent.unlearning.pga_projection import ErasedStream
from remanent.unlearning.uld import edit as uld

IDS = torch.tensor([[3, 4, 5, 6]])


def stream(depth=1, seed=0):
    basis = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(seed))).Q
    return ErasedStream({depth: Subspace(basis, torch.zeros(32))})


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_several_are_put_on_and_each_can_be_taken_off(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    before, plain = snapshot(model), logits(model)
    first, second = stream(1), stream(2, seed=1)
    undo = put_on(model, first)
    one = logits(model)
    put_on(model, second)
    both = logits(model)
    assert worn(model) == (first, second)
    assert not torch.equal(plain, one)
    assert not torch.equal(one, both)
    with taken_off(model):
        assert worn(model) == ()
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), both)
    undo.undo()
    assert worn(model) == (second,)
    assert same_bits(snapshot(model), before)


def test_it_is_what_the_displacement_is(tiny_llama):
    model, item = tiny_llama(), stream()
    with Erasure(item.subspaces).at(model):
        expected = logits(model)
    put_on(model, item)
    assert torch.equal(logits(model), expected)


def test_the_point_without_it_is_the_model_before(tiny_llama):
    model = tiny_llama()
    plain = logits(model)
    with pytest.raises(InputError, match="wears"), InterventionOff().at(model):
        pass
    put_on(model, stream())
    inside = logits(model)
    with InterventionOff().at(model):
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), inside)


@pytest.fixture(scope="module")
def world():
    sets = author_sets(3, forget=4, retain=3, control=4, questions=2)
    loaded = tiny([*sets.forget, *sets.retain, *sets.control], hidden=32)
    return sets, loaded


def dressed(world):
    """The model with all kinds, undone by the caller."""
    sets, loaded = world
    data = {
        role: encode_all(records, loaded.tokenizer)
        for role, records in (("forget", sets.forget), ("retain", sets.retain))
    }
    kinds = (eco(), eul(epochs=1.0), uld(epochs=1.0))
    undo = [edit.edit(loaded.model, data, EditSettings(pad_id(loaded.tokenizer))).undo for edit in kinds]
    for item in (stream(), Prefix(torch.tensor([5, 6]))):
        undo.append(put_on(loaded.model, item))
    return undo


def test_saved_and_loaded_it_is_worn_again(world, tmp_path):
    _, loaded = world
    undo = dressed(world)
    try:
        inside = logits(loaded.model)
        save(loaded.model, loaded.tokenizer, tmp_path / "model")
        again = load(tmp_path / "model")
        assert [item.kind for item in worn(again.model)] == ["eco", "eul", "uld", "pga-projection", "guardrail"]
        assert torch.equal(logits(again.model), inside)
    finally:
        for item in reversed(undo):
            item.undo()
    save(loaded.model, loaded.tokenizer, tmp_path / "plain")
    assert not (tmp_path / "plain" / FILE).exists()
    with InterventionOff().at(again.model):
        assert torch.equal(logits(again.model), logits(loaded.model))


def test_a_damaged_file_is_refused(world, tmp_path):
    _, loaded = world
    save(loaded.model, loaded.tokenizer, tmp_path / "model")
    (tmp_path / "model" / FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(IntegrityError, match="is not what save writes"):
        load(tmp_path / "model")


def test_an_audit_asks_without_it_too(world, tmp_path):
    sets, loaded = world
    save(loaded.model, loaded.tokenizer, tmp_path / "original")
    undo = dressed(world)
    try:
        save(loaded.model, loaded.tokenizer, tmp_path / "audited")
    finally:
        for item in reversed(undo):
            item.undo()
    subjects = {AUDITED: lambda: load(tmp_path / "audited"), ORIGINAL: lambda: load(tmp_path / "original")}
    data = AuditData(sets.forget, sets.retain, sets.control)
    evidence = audit(subjects, data, AuditPlan(parse_conditions("full"), generate=0), str)
    assert [info.name for info in evidence.conditions] == ["full", "intervention-off"]

    def nll(subject, condition):
        [found] = [
            m for m in evidence.measurements if (m.subject, m.condition, m.records) == (subject, condition, FORGET)
        ]
        return [score.nll for score in found.scores]

    assert nll(AUDITED, "intervention-off") == nll(ORIGINAL, "full") == nll(ORIGINAL, "intervention-off")
    assert nll(AUDITED, "full") != nll(ORIGINAL, "full")


def test_a_model_that_wears_nothing_is_not_asked_without(world, tmp_path):
    sets, loaded = world
    save(loaded.model, loaded.tokenizer, tmp_path / "audited")
    subjects = {AUDITED: lambda: load(tmp_path / "audited")}
    plan = AuditPlan(parse_conditions("intervention-off"), generate=0)
    with pytest.raises(InputError, match="wears"):
        audit(subjects, AuditData(sets.forget, sets.retain), plan, str)
