"""The projection: which directions it finds, that the weights hold them, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from remanent.core.activations import states_of
from remanent.core.displacement import Erasure, Subspace
from remanent.core.edit import EditSettings
from remanent.core.probe import fit_probe
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.pga_projection import PGAProjection, edit, joined, spectral


@pytest.fixture
def data(make_records):
    return {"forget": make_records(6, seed=1), "retain": make_records(9, seed=2)}


def test_the_spectral_directions_by_hand():
    """Means 2 apart along the first axis, a variance that is 9 larger along the second: eigenvalues 4 and 9."""
    ours = torch.tensor([[2.0, 3.0, 0.0], [2.0, -3.0, 0.0]])
    theirs = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert spectral(ours, theirs, 1).abs()[:, 0].tolist() == pytest.approx([0, 1, 0])
    assert spectral(ours, theirs, 2).abs()[:, 1].tolist() == pytest.approx([1, 0, 0])
    assert spectral(theirs, ours, 1).abs()[:, 0].tolist() == pytest.approx([0, 1, 0])  # by size, whatever the sign


def test_a_probe_finds_nothing_more_along_its_own_direction(tiny_llama, data):
    model = tiny_llama()
    found = PGAProjection().find(model, data["forget"], data["retain"])
    assert {depth: item.rank for depth, item in found.subspaces.items()} == {1: 1, 2: 1}
    with Erasure(found.subspaces).at(model):
        rest = [states_of(model, records, (1,))[1] for records in (data["forget"], data["retain"])]
    for rows in rest:
        along = rows @ found.subspaces[1].basis
        assert float(along.std()) < 1e-4


def test_an_attacker_adds_directions_until_it_finds_nothing(tiny_llama, data):
    model = tiny_llama()
    for item in PGAProjection(rounds=3).find(model, data["forget"], data["retain"]).subspaces.values():
        assert 1 <= item.rank <= 4
        torch.testing.assert_close(item.basis.T @ item.basis, torch.eye(item.rank), rtol=0, atol=1e-5)


def test_the_weights_hold_what_the_hooks_would_erase_at_every_depth(tiny_llama, data, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    made = edit(rounds=2).edit(model, data, EditSettings())
    assert made.report["left_along_them"] < 1e-4
    assert made.report["directions"] >= 2
    assert not same_bits(snapshot(model), before)
    made.undo.undo()
    assert same_bits(snapshot(model), before)


def test_a_model_whose_stream_something_else_writes_is_left_as_it_was(tiny_llama, data, snapshot, same_bits):
    model = tiny_llama()
    model.model.layers[0].self_attn.other = torch.nn.Linear(32, 32)
    project = model.model.layers[0].self_attn.o_proj.forward
    other = model.model.layers[0].self_attn.other
    model.model.layers[0].self_attn.o_proj.forward = lambda states: project(states) + other(states)
    before = snapshot(model)
    with pytest.raises(UnsupportedError, match="only hooks"):
        edit().edit(model, data, EditSettings())
    assert same_bits(snapshot(model), before)


def test_the_union_of_all_depths():
    axis = torch.eye(3)
    one, two = Subspace(axis[:, :1], torch.zeros(3)), Subspace(axis[:, :2], torch.ones(3))
    whole = joined({1: one, 2: two})
    assert whole.rank == 2
    assert whole.mean.tolist() == [0.5, 0.5, 0.5]
    torch.testing.assert_close(whole.basis @ whole.basis.T, torch.diag(torch.tensor([1.0, 1.0, 0.0])))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"directions": "probes"}, "did you mean 'probe'"),
        ({"rank": 2}, "rounds add more"),
        ({"rank": 0}, "rank"),
        ({"rounds": -1}, "rounds"),
        ({"depths": -1}, "depths"),
        ({"strength": float("nan")}, "strength"),
    ],
)
def test_what_is_wrong_is_named(given, field):
    with pytest.raises(InputError, match=field):
        edit(**given)


def test_the_direction_is_the_probes(tiny_llama, data):
    model = tiny_llama()
    found = PGAProjection(depths=1).find(model, data["forget"], data["retain"]).subspaces[2]
    retain = [data["retain"][number * 9 // 6] for number in range(6)]
    rows = torch.cat([states_of(model, records, (2,))[2] for records in (data["forget"], retain)])
    expected = fit_probe(rows, torch.arange(12) < 6).direction.float()
    torch.testing.assert_close(found.basis[:, 0], expected)
    torch.testing.assert_close(found.mean, rows.mean(dim=0))
