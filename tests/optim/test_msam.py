from __future__ import annotations

import pytest
import torch
from sam_cases import SGD, batch, closure_of, net
from torch import nn

from remanent.errors import InputError
from remanent.optim import MSAM, SAM


def loss_of(model, weights, data, rows):
    output = torch.func.functional_call(model, weights, data[0][rows])
    return nn.functional.cross_entropy(output, data[1][rows])


@pytest.mark.parametrize("size", [4, 5, 12, 99])
def test_the_gradient_is_the_mean_of_each_micro_batchs(size):
    """Written out; with 5, the last of 12 records are two, and count for two."""
    model, data = net(torch.float64), batch(0, torch.float64)
    optimizer = MSAM(model.parameters(), torch.optim.SGD, micro_batch_size=size, rho=0.3, lr=0.0)
    loss = optimizer.step(closure_of(model, data), records=12)
    here = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
    total = {name: torch.zeros_like(weight) for name, weight in here.items()}
    for rows in torch.arange(12).split(size):
        first = torch.autograd.grad(loss_of(model, here, data, rows), list(here.values()))
        length = torch.cat([part.flatten() for part in first]).norm()
        there = {
            n: (w + 0.3 * g / length).detach().requires_grad_() for (n, w), g in zip(here.items(), first, strict=True)
        }
        second = torch.autograd.grad(loss_of(model, there, data, rows), list(there.values()))
        for name, part in zip(total, second, strict=True):
            total[name] += part * len(rows) / 12
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, total[name], rtol=0, atol=1e-9)
    assert float(loss) == pytest.approx(float(loss_of(model, here, data, slice(None)).detach()))


def test_one_micro_batch_is_sam():
    ways = []
    for make, records in ((MSAM, 12), (SAM, None)):
        model = net(norm=True)
        own = {"micro_batch_size": 12} if records else {}
        optimizer = make(model.parameters(), torch.optim.SGD, model=model, **own, **SGD)
        for number in range(3):
            closure = closure_of(model, batch(number))
            optimizer.step(closure, records=records) if records else optimizer.step(closure)
        ways.append(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*ways, strict=True))


def test_smaller_micro_batches_climb_elsewhere():
    model, points = net(), []
    optimizer = MSAM(model.parameters(), torch.optim.SGD, micro_batch_size=6, rho=0.3, lr=0.0)
    closure = closure_of(model, batch(0))

    def watched(rows):
        points.append((rows, model[0].weight.detach().clone()))
        return closure(rows)

    optimizer.step(watched, records=12)
    assert [rows for rows, _ in points] == [slice(0, 6)] * 2 + [slice(6, 12)] * 2
    assert torch.equal(points[0][1], points[2][1]), "each from w"
    assert not torch.allclose(points[1][1], points[3][1])


@pytest.mark.parametrize(
    ("field", "options"), [("micro_batch_size", {"micro_batch_size": 0}), ("between", {"between": "reuse"})]
)
def test_values_out_of_range(field, options):
    with pytest.raises(InputError, match=field):
        MSAM(net().parameters(), torch.optim.SGD, lr=0.1, **{"micro_batch_size": 4, **options})


def test_a_batch_without_records():
    model = net()
    optimizer = MSAM(model.parameters(), torch.optim.SGD, lr=0.1, micro_batch_size=4)
    with pytest.raises(InputError, match="records"):
        optimizer.step(closure_of(model, batch(0)), records=0)
