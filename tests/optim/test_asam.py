from __future__ import annotations

import pytest
import torch
from sam_cases import SGD, batch, closure_of, net
from torch import nn

from remanent.errors import InputError
from remanent.optim import ASAM, SAM


def displaced(optimizer, model):
    """e of the next step, by name."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer.zero_grad()
    closure_of(model, batch(0, next(model.parameters()).dtype))()
    optimizer.first_step()
    found = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    optimizer.restore()
    return found


def test_biases_have_a_scale_of_one():
    model = net(torch.float64)
    e = displaced(ASAM(model.named_parameters(), torch.optim.SGD, rho=0.5, eta=0.01, lr=0.1), model)
    closure_of(model, batch(0, torch.float64))()
    scale = {name: w.detach().abs() + 0.01 if "weight" in name else 1.0 for name, w in model.named_parameters()}
    scaled = {name: scale[name] * w.grad for name, w in model.named_parameters()}
    length = torch.cat([part.flatten() for part in scaled.values()]).norm()
    for name, part in scaled.items():
        torch.testing.assert_close(e[name], 0.5 * scale[name] * part / length, rtol=0, atol=1e-9)


def test_rescaling_a_layer_and_the_next_leaves_the_relative_step():
    """What the paper is named after; SAM's changes. With ReLU and without biases the function is the same."""

    def relative(make, factor):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
        with torch.no_grad():
            model[0].weight.mul_(factor)
            model[2].weight.div_(factor)
        e = displaced(make(model), model)
        return torch.cat([(e[name] / w.detach()).flatten() for name, w in model.named_parameters()])

    def asam(model):
        return ASAM(model.named_parameters(), torch.optim.SGD, eta=0.0, lr=0.1)

    def sam(model):
        return SAM(model.parameters(), torch.optim.SGD, lr=0.1)

    torch.testing.assert_close(relative(asam, 1.0), relative(asam, 4.0), rtol=1e-9, atol=0)
    assert float((relative(sam, 1.0) - relative(sam, 4.0)).abs().max()) > 0.01


@pytest.mark.parametrize("grouped", [False, True])
def test_names_come_with_the_parameters_or_from_the_model(grouped):
    ways = []
    for named in (True, False):
        model = net()
        params = list(model.named_parameters()) if named else list(model.parameters())
        if grouped:
            params = [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:]}]
        asam = ASAM(params, torch.optim.SGD, model=None if named else model, **SGD)
        assert len(asam.param_groups) == (4 if grouped else 2)
        for number in range(2):
            asam.step(closure_of(model, batch(number)))
        ways.append(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*ways, strict=True))


def test_parameters_without_a_name_are_refused():
    with pytest.raises(InputError, match="named_parameters"):
        ASAM(net().parameters(), torch.optim.SGD, lr=0.1)


def test_a_group_may_say_itself_whether_it_is_adaptive():
    model = net()
    asam = ASAM([{"params": model.parameters(), "adaptive": True}], torch.optim.SGD, eta=0.0, rho=0.3, lr=0.1)
    other = net()
    sam = SAM(other.parameters(), torch.optim.SGD, adaptive=True, rho=0.3, lr=0.1)
    asam.step(closure_of(model, batch(0)))
    sam.step(closure_of(other, batch(0)))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
