from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from remanent.core.displacement import Ascent, AutoPGD
from remanent.core.displacement.auto_pgd import _checkpoints
from remanent.errors import InputError


def linear():
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    return model, lambda: (model.weight * torch.tensor([3.0, 4.0, 0.0])).sum()


@pytest.mark.parametrize(
    ("norm", "scale", "expected"),
    [
        ("l2", "none", 5.0),  # ||g||
        ("l2", "element", math.hypot(3 * 1, 4 * 2)),  # ||c g||
        ("l2", "tensor", 5 * math.sqrt(5.25 / 3)),
        ("linf", "none", 7.0),  # sum |g|
        ("linf", "element", 3 + 8),
    ],
)
def test_of_a_linear_loss_the_worst_point_is_known(norm, scale, expected):
    model, loss = linear()
    here = float(loss().detach())
    with AutoPGD(0.1, norm, scale, steps=30).at(model, loss):
        assert float(loss().detach()) - here == pytest.approx(0.1 * expected, rel=1e-4)
    if norm == "l2" and scale in ("none", "element"):
        with Ascent(0.1, adaptive=scale == "element").at(model, loss):
            assert float(loss().detach()) - here == pytest.approx(0.1 * expected, rel=1e-9)


def test_rho_zero_and_a_loss_without_slope_move_nothing(tiny_llama, make_batch, mean_loss, snapshot, same_bits):
    model, batch = tiny_llama(), make_batch(2)
    here = snapshot(model)
    for point, loss in (
        (AutoPGD(0.0), lambda: mean_loss(model, batch)),
        (AutoPGD(0.1, steps=3), lambda: 0 * mean_loss(model, batch)),
    ):
        with point.at(model, loss):
            assert same_bits(snapshot(model), here)


def test_a_loss_that_leaps_to_infinity_ends_at_the_best_finite_point():
    model, _ = linear()

    def loss():
        value = model.weight[0, 0]
        return torch.where(value > 1.05, torch.tensor(math.inf, dtype=torch.float64), value) * 1.0

    with AutoPGD(0.2, steps=6).at(model, loss):
        assert math.isfinite(float(loss().detach()))


def test_checkpoints_are_those_of_the_papers_code():
    assert _checkpoints(20) >= {5, 9, 12, 15, 16, 18, 19}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rho": -1.0}, "rho"),
        ({"rho": math.nan}, "rho"),
        ({"norm": "l3"}, "norm"),
        ({"scale": "weight"}, "scale"),
        ({"steps": 0}, "steps"),
        ({"projection": "oblique"}, "projection"),
    ],
)
def test_bad_settings(options, field):
    with pytest.raises(InputError, match=field):
        AutoPGD(**{"rho": 0.1, **options})
    assert str(AutoPGD(0.1, "linf", "element")) == "auto-pgd-linf-0.1-element"
