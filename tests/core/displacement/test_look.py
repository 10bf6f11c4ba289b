"""Look: whatever happens inside the block, everything is given back bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from remanent.core.displacement import (
    Ascent,
    Displacement,
    Here,
    Interpolation,
    Noise,
    Relearning,
    Rounding,
    Then,
)
from remanent.core.selection import Selection
from remanent.core.weights import Weights, identity
from remanent.errors import InputError

POINTS = ["here", "rounding", "noise", "ascent", "relearning", "interpolation", "then"]


@pytest.fixture(params=POINTS)
def point(request, make_batch, mean_loss, tiny_llama):
    batch = make_batch(4)
    return {
        "here": Here(),
        "rounding": Rounding("int4"),
        "noise": Noise(0.3),
        "ascent": Ascent(0.5),
        "relearning": Relearning([batch], 2, learning_rate=1e-2),
        "interpolation": Interpolation(tiny_llama(seed=9).state_dict(), 0.5),
        "then": Then(Relearning([batch], 1, learning_rate=1e-2), Rounding("int4")),
    }[request.param]


class Broken(Displacement):
    """Moves half of the way, then fails."""

    def move(self, weights, context):
        for number, tensor in enumerate(weights.values()):
            if number == 3:
                raise ArithmeticError("broken off")
            with torch.no_grad():
                tensor.zero_()


@dataclass(frozen=True)
class Zero(Displacement):
    """Everything that matches at zero."""

    names: tuple[str, ...] = ("*",)

    def moving(self, weights):
        return Selection(self.names).of(weights)

    @torch.no_grad()
    def move(self, weights, context):
        for tensor in weights.values():
            tensor.zero_()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_point_is_left_as_it_was_found(
    point, tied, dtype, tiny_llama, make_batch, mean_loss, snapshot, same_bits
):
    model, batch = tiny_llama(tied=tied, dtype=dtype), make_batch(4)
    before = snapshot(model)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    with torch.no_grad():
        there = mean_loss(model, batch)
    with point.at(model, loss=lambda: mean_loss(model, batch)), torch.no_grad():
        moved = mean_loss(model, batch)
    assert same_bits(snapshot(model), before)
    assert addresses == [parameter.data_ptr() for parameter in model.parameters()]
    assert torch.equal(there, moved) == isinstance(point, Here)  # it was somewhere else meanwhile


def test_an_exception_inside_gives_everything_back(point, tiny_llama, make_batch, mean_loss, snapshot, same_bits):
    model, batch = tiny_llama(), make_batch(4)
    before = snapshot(model)
    with pytest.raises(KeyError), point.at(model, loss=lambda: mean_loss(model, batch)):
        raise KeyError
    assert same_bits(snapshot(model), before)


def test_an_exception_in_move_gives_everything_back(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    with pytest.raises(ArithmeticError), Broken().at(model):
        pytest.fail("the block must not be entered")
    with pytest.raises(ArithmeticError):
        Broken().apply(model)
    assert same_bits(snapshot(model), before)


def test_keyboard_interrupt_gives_everything_back(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), Zero().at(model):
        raise KeyboardInterrupt
    assert same_bits(snapshot(model), before)


def test_blocks_nest(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    with Rounding("int8").at(model):
        rounded = snapshot(model)
        with Noise(0.5).at(model), Zero().at(model):
            assert not model.lm_head.weight.any()
        assert same_bits(snapshot(model), rounded)
    assert same_bits(snapshot(model), before)
    assert "_remanent_open_states" not in vars(model)


def test_a_block_left_out_of_turn_undoes_both_and_says_so(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    outer, inner = Rounding("int4").at(model), Zero().at(model)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="both have been undone"):
        outer.__exit__(None, None, None)
    assert same_bits(snapshot(model), before)
    inner.__exit__(None, None, None)
    assert same_bits(snapshot(model), before)


def test_tied_weights_move_once(tiny_llama):
    model = tiny_llama(tied=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = model.lm_head.weight + 0.5 * (1.0 - model.lm_head.weight)
    ones = {name: torch.ones_like(tensor) for name, tensor in Weights.of(model).items()}
    with Interpolation(ones, 0.5).at(model):
        torch.testing.assert_close(model.lm_head.weight, expected)


def test_two_parameters_on_one_memory_move_once_and_their_gradients_stay(snapshot, same_bits):
    first, second = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    second.weight = nn.Parameter(first.weight.data)
    model = nn.Sequential(first, nn.Linear(3, 4), second)
    assert first.weight is not second.weight
    assert identity(first.weight) == identity(second.weight)
    aside = second.weight.grad = torch.full((3, 4), 7.0)
    before = snapshot(model)
    half = {name: torch.zeros_like(tensor) for name, tensor in Weights.of(model).items()}
    with Interpolation(half, 0.5).at(model):
        torch.testing.assert_close(second.weight, before["0.weight"] / 2)
        model(torch.ones(2, 4)).sum().backward()
    assert same_bits(snapshot(model), before)
    assert second.weight.grad is aside
    assert bool((aside == 7).all())
    assert first.weight.grad is None


def test_overlapping_views_of_one_memory_come_back(snapshot, same_bits):
    memory = torch.randn(12)
    model = nn.Module()
    model.left, model.right = nn.Parameter(memory[:8]), nn.Parameter(memory[4:])
    before = snapshot(model)
    with Noise(1.0).at(model):
        assert not torch.equal(model.left, before["left"])
    assert same_bits(snapshot(model), before)


def test_batch_norm_statistics_modes_gradients_flags_and_generators_come_back(snapshot, same_bits):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[1].eval()
    model[0].bias.requires_grad_(False)
    gradient = model[0].weight.grad = torch.ones(4, 4)
    modes = [module.training for module in model.modules()]
    before, generator = snapshot(model), torch.get_rng_state()
    with Noise(0.1).at(model):
        assert model[0].weight.grad is None
        model.train()
        model[0].bias.requires_grad_(True)
        model(torch.randn(8, 4)).sum().backward()
        model[1].running_mean = torch.full((4,), 5.0)  # replaced, not only written
        torch.manual_seed(123)
    assert same_bits(snapshot(model), before)
    assert [module.training for module in model.modules()] == modes
    assert model[0].weight.grad is gradient
    assert bool((gradient == 1).all())
    assert model[0].bias.grad is None
    assert not model[0].bias.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_selection_of_weights_leaves_the_other_gradients_alone(tiny_llama, make_batch, mean_loss):
    model, batch = tiny_llama(tied=False), make_batch(3)
    part = Selection(("*.layers.0.*",)).of(Weights.of(model))
    with Noise(0.1).at(part):
        mean_loss(model, batch).backward()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("point", "share"),
    [(Zero(("*.layers.1.mlp.*",)), "*.layers.1.mlp.*"), (Here(), None), (Zero(("*norm*",)), "*norm*")],
)
def test_only_what_moves_is_cloned(point, share, tiny_llama, monkeypatch):
    model = tiny_llama(tied=False)
    weights = Weights.of(model)
    moving = [] if share is None else list(Selection((share,)).of(weights).values())
    expected = sum(tensor.nbytes for tensor in moving) + sum(buffer.nbytes for buffer in model.buffers())
    cloned = []
    clone = torch.Tensor.clone

    def counted(tensor, *arguments, **options):
        cloned.append(tensor.nbytes)
        return clone(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "clone", counted)
    with point.at(model):
        pass
    assert sum(cloned) == expected


def test_apply_stays_and_undo_returns_bit_for_bit(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    gradient = model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    before = snapshot(model)
    with Rounding("int4").at(model):
        there = snapshot(model)
    undo = Rounding("int4").apply(model)
    assert same_bits(snapshot(model), there)
    assert not same_bits(there, before)
    assert model.lm_head.weight.grad is gradient
    undo.undo()
    assert same_bits(snapshot(model), before)


def test_a_displacement_that_needs_a_loss_asks_for_it_before_anything_moves(tiny_llama, snapshot, same_bits):
    model = tiny_llama()
    before = snapshot(model)
    with pytest.raises(InputError, match="loss"), Ascent(0.1).at(model):
        pytest.fail("the block must not be entered")
    assert same_bits(snapshot(model), before)


@pytest.mark.parametrize("inside", [torch.no_grad, torch.enable_grad])
def test_points_that_train_can_be_looked_at_without_gradients(inside, tiny_llama, make_batch, mean_loss):
    model, batch = tiny_llama(), make_batch(4)

    def at(point):
        with inside(), point.at(model, loss=lambda: mean_loss(model, batch)):
            return model.lm_head.weight.detach().clone()

    for point in (Relearning([batch], 2, learning_rate=1e-2), Ascent(0.5)):
        assert not torch.equal(at(point), model.lm_head.weight)


def test_an_outer_autocast_sees_the_moved_weights_and_afterwards_the_old(tiny_llama, make_batch):
    model, batch = tiny_llama(tied=False), make_batch(3)

    def logits():
        return model(input_ids=batch.input_ids).logits.clone()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        here = logits()
    undo = Rounding("int2").apply(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        there = logits()
    undo.undo()
    assert not torch.equal(here, there)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits(), here)
        with Rounding("int2").at(model):
            assert torch.equal(logits(), there)
        assert torch.equal(logits(), here)
        with Rounding("int2").at(model, layer_by_layer=True):
            assert torch.equal(logits(), there)
        assert torch.equal(logits(), here)


def test_what_is_drawn_inside_does_not_depend_on_what_the_move_drew(tiny_gpt2, make_batch):
    model = tiny_gpt2(dropout=0.2)
    drawn = []
    for point in (Here(), Relearning([make_batch(3)], 2), Noise(0.1)):
        torch.manual_seed(3)
        with point.at(model):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
