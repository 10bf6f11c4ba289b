from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import Ascent, Here, Interpolation, Noise, OneOf, Rounding, Then
from remanent.core.weights import Weights
from remanent.errors import InputError


def point(displacement, model, snapshot, **options):
    with displacement.at(model, **options):
        return snapshot(model)


def test_one_of_takes_its_turns_by_step(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    each = (Rounding("int4"), Rounding("int8"), Here())
    expected = [point(one, model, snapshot) for one in each]
    for step in range(7):
        assert same_bits(point(OneOf(*each), model, snapshot, step=step), expected[step % 3])
        assert OneOf(*each).resolve(step) is each[step % 3]


def test_one_of_inside_then_takes_its_turns_too(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    turns = Then(Noise(0.1), OneOf(Rounding("int4"), Rounding("int8")))
    for step, format in enumerate(("int4", "int8", "int4")):
        expected = point(Then(Noise(0.1), Rounding(format)), model, snapshot)
        assert same_bits(point(turns, model, snapshot, step=step), expected)


def test_then_moves_the_second_from_where_the_first_ends(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    undo = Noise(0.3).apply(model)
    expected = point(Rounding("int4"), model, snapshot)
    undo.undo()
    assert same_bits(point(Then(Noise(0.3), Rounding("int4")), model, snapshot), expected)
    assert not same_bits(point(Then(Rounding("int4"), Noise(0.3)), model, snapshot), expected)


def test_then_moves_within_the_weights_it_was_given_only(tiny_llama, snapshot, same_bits):
    model = tiny_llama(tied=False)
    name = "model.layers.0.mlp.up_proj.weight"
    before = snapshot(model)
    with Then(Noise(0.3), Rounding("int4")).at(Weights.of(model).only([name])):
        moved = [key for key, tensor in model.named_parameters() if not torch.equal(tensor, before[key])]
    assert moved == [name]
    assert same_bits(snapshot(model), before)


def test_needs_and_names_are_those_of_the_parts():
    assert Then(Noise(0.1), Ascent(0.1)).needs == {"loss"}
    assert OneOf(Here(), Ascent(0.1)).needs == {"loss"}
    assert OneOf(Here(), Noise(0.1)).needs == frozenset()
    assert str(Then(Noise(0.1), Rounding("int4"))) == "noise-0.1-then-int4-row"
    with pytest.raises(InputError, match="displacements"):
        OneOf()


def test_a_point_that_only_sometimes_climbs_asks_for_a_loss_when_it_does(tiny_llama):
    model = tiny_llama()
    turns = OneOf(Here(), Ascent(0.1))
    with turns.at(model, step=0):
        pass
    with pytest.raises(InputError, match="loss"), turns.at(model, step=1):
        pass


def test_interpolation_is_undone_by_its_inverse(tiny_llama, snapshot):
    model, other = tiny_llama(), tiny_llama(seed=1).state_dict()
    # From w, t = 1/2 to o and then t = -1 away from it: 2 (w + o) / 2 - o = w.
    there = point(Then(Interpolation(other, 0.5), Interpolation(other, -1.0)), model, snapshot)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(there[name], weight.detach(), atol=1e-6, rtol=1e-5)
