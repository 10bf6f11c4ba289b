from __future__ import annotations

import pytest
import torch
from sam_cases import SGD, batch, bowl, closure_of, net
from torch import nn

from remanent.errors import InputError
from remanent.optim import GSAM, SAM


def test_the_direction_by_hand():
    w = nn.Parameter(torch.tensor([1.0, 1.0]))
    gsam = GSAM([w], torch.optim.SGD, rho=0.5, alpha=0.4, lr=0.1)
    gsam.step(lambda: (loss := bowl(w), loss.backward())[0])
    assert w.grad.tolist() == pytest.approx([1.02665, 5.95814], abs=1e-5)
    assert w.tolist() == pytest.approx([1 - 0.102665, 1 - 0.595814], abs=1e-5)


def test_what_is_taken_off_is_orthogonal_to_the_second_gradient():
    """So that the loss nearby does not notice it, to first order; and the loss here rises along it."""
    directions = {}
    for alpha in (0.0, 1.0):
        model = net(torch.float64)
        GSAM(model.parameters(), torch.optim.SGD, rho=0.3, alpha=alpha, lr=0.0).step(
            closure_of(model, batch(0, torch.float64))
        )
        directions[alpha] = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model = net(torch.float64)
    closure_of(model, batch(0, torch.float64))()
    here = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    off = directions[0.0] - directions[1.0]
    assert float(off @ directions[0.0]) == pytest.approx(0.0, abs=1e-12)
    assert float(off @ here) > 1e-4


def test_alpha_zero_is_sam():
    ways = []
    for make in (lambda p: GSAM(p, torch.optim.SGD, alpha=0.0, **SGD), lambda p: SAM(p, torch.optim.SGD, **SGD)):
        model = net()
        optimizer = make(model.parameters())
        for number in range(3):
            optimizer.step(closure_of(model, batch(number)))
        ways.append(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*ways, strict=True))


def test_the_radius_follows_each_groups_learning_rate():
    a, b = (nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    groups = [{"params": [a]}, {"params": [b], "lr": 0.4}]
    gsam = GSAM(groups, torch.optim.SGD, rho=0.5, rho_min=0.1, lr_min=0.02, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(gsam, lambda step: 1.0 if step == 0 else 0.5)
    assert [ascent.rho for ascent in gsam._ascents()] == [0.5, 0.5]
    schedule.step()
    expected = [0.1 + 0.4 * (0.05 - 0.02) / (0.1 - 0.02), 0.1 + 0.4 * (0.2 - 0.02) / (0.4 - 0.02)]
    assert [ascent.rho for ascent in gsam._ascents()] == pytest.approx(expected)
    for group in gsam.param_groups:
        group["lr"] = 0.0
    assert [ascent.rho for ascent in gsam._ascents()] == [0.1, 0.1], "not below its end"


@pytest.mark.parametrize(
    ("field", "options"),
    [("alpha", {"alpha": -1.0}), ("rho_min", {"rho_min": 0.2, "rho": 0.1}), ("lr_max", {"lr_max": 0.1, "lr_min": 0.1})],
)
def test_values_out_of_range(field, options):
    with pytest.raises(InputError, match=field):
        GSAM(net().parameters(), torch.optim.SGD, lr=0.1, **options)
