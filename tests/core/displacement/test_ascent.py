from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from remanent.core.displacement import Ascent, Context
from remanent.core.displacement.ascent import climb
from remanent.core.displacement.base import learning_at
from remanent.core.weights import Weights
from remanent.errors import InputError


class Bowl(nn.Module):
    """L = (x^2 + 4 y^2) / 2."""

    def __init__(self, x, y, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([x, y], dtype=dtype))

    def loss(self):
        return (self.w[0] ** 2 + 4 * self.w[1] ** 2) / 2


def step(model, ascent):
    before = model.w.detach().clone()
    with ascent.at(model, loss=model.loss):
        return (model.w.detach() - before).tolist()


def test_sam_by_hand():
    # g = (1, 4), ||g|| = 4.12311, e = 0.5 g / ||g||.
    assert step(Bowl(1.0, 1.0), Ascent(0.5)) == pytest.approx([0.12127, 0.48507], abs=1e-5)


def test_asam_by_hand():
    # w = (2, 1): g = (2, 4), T g = (4, 4), e = 0.5 T^2 g / ||T g|| = 0.5 (8, 4) / 5.65685.
    assert step(Bowl(2.0, 1.0), Ascent(0.5, adaptive=True)) == pytest.approx([0.70711, 0.35355], abs=1e-5)


def test_asam_with_eta_by_hand():
    assert step(Bowl(2.0, 1.0), Ascent(0.5, adaptive=True, eta=0.01)) == pytest.approx([0.70888, 0.35797], abs=1e-5)


def test_float64_weights_climb_in_float64():
    with Ascent(0.5).at(model := Bowl(1.0, 1.0, torch.float64), loss=model.loss):
        assert model.w[0].item() == pytest.approx(1 + 0.5 / 17**0.5, abs=1e-12)


def test_rho_zero_and_a_gradient_of_zero_move_nothing_bit_for_bit():
    assert step(Bowl(1.1, 0.3), Ascent(0.0)) == [0.0, 0.0]
    assert step(Bowl(0.0, 0.0), Ascent(0.5)) == [0.0, 0.0]


def test_the_norm_is_one_number_over_all_weights_and_frozen_ones_have_no_part():
    model = nn.Module()
    model.a, model.b, model.c = (nn.Parameter(torch.tensor([value])) for value in (1.0, 1.0, 1.0))
    model.c.requires_grad_(False)

    def loss():
        return 3 * model.a.sum() + 4 * model.b.sum() + 100 * model.c.sum()

    with Ascent(1.0).at(model, loss=loss):
        assert [p.item() for p in (model.a, model.b, model.c)] == pytest.approx([1.6, 1.8, 1.0])


def test_named_losses_and_micro_batches():
    model = Bowl(1.0, 1.0)
    losses = {"x": [lambda: model.w[0], lambda: model.w[0]], "y": lambda: 2 * model.w[1]}

    def reached(of):
        with Ascent(1.0, of=of).at(model, loss=losses):
            return (model.w.detach() - 1).tolist()

    assert reached("x") == pytest.approx([1.0, 0.0], abs=1e-6)
    assert reached("y") == pytest.approx([0.0, 1.0], abs=1e-6)
    assert reached(None) == pytest.approx([2**-0.5, 2**-0.5], abs=1e-6)
    with pytest.raises(InputError, match="x, y"):
        reached("z")
    with pytest.raises(InputError, match="named losses"), Ascent(1.0, of="x").at(model, loss=model.loss):
        pass


def test_the_climb_leaves_the_gradient_that_was_there():
    model = Bowl(1.0, 1.0)
    model.loss().backward()
    with learning_at(Ascent(0.5), Weights.of(model), Context(model, model.loss)):
        assert model.w.grad.tolist() == [1.0, 4.0]
        model.loss().backward()
    # here (1, 4), there (1 + e_x, 4 (1 + e_y)): added up.
    assert model.w.grad.tolist() == pytest.approx([2.12127, 9.94029], abs=1e-4)
    assert model.w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("adaptive", [False, True])
def test_an_overflow_does_not_reach_weights_that_stay(adaptive):
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    gradients = {name: torch.tensor([math.inf, 1.0]) for name in weights}
    length = climb(weights, gradients, {"a": Ascent(0.1, adaptive=adaptive), "b": Ascent(0.0, adaptive=adaptive)})
    assert length == math.inf
    assert weights["b"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("field", "options"), [("rho", {"rho": -1.0}), ("rho", {"rho": float("nan")}), ("eta", {"rho": 1.0, "eta": -0.1})]
)
def test_bad_settings(field, options):
    with pytest.raises(InputError, match=field):
        Ascent(**options)
