from __future__ import annotations

import pytest
import torch
from sam_cases import SGD, batch, bowl, closure_of, net
from torch import nn

from remanent.errors import InputError
from remanent.optim import SAM, LookSAM


def test_both_kinds_of_step_by_hand():
    w, calls = nn.Parameter(torch.tensor([1.0, 1.0])), []
    look = LookSAM([w], torch.optim.SGD, rho=0.5, alpha=0.7, every=2, lr=0.0)

    def closure():
        calls.append(w.tolist())
        loss = bowl(w)
        loss.backward()
        return loss

    look.step(closure)
    assert w.grad.tolist() == pytest.approx([1.12127, 5.94029], abs=1e-5), "SAM's"
    kept = torch.tensor([-0.34240, 0.08560])
    torch.testing.assert_close(look.kept["0.0"], kept / kept.norm(), rtol=0, atol=1e-4)
    look.step(closure)
    assert w.grad.tolist() == pytest.approx([-1.8, 4.7], abs=1e-4)
    assert calls[2:] == [[1.0, 1.0]], "one pass, at w"
    look.step(closure)
    assert len(calls) == 5


def test_what_is_kept_is_orthogonal_to_the_gradient_over_all_weights():
    model = net(torch.float64)
    look = LookSAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.0)
    look.step(closure_of(model, batch(0, torch.float64)))
    model.zero_grad()
    closure_of(model, batch(0, torch.float64))()
    kept = torch.cat([tensor.flatten() for tensor in look.kept.values()])
    here = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert float(kept @ here) == pytest.approx(0.0, abs=1e-12)
    assert float(kept.norm()) == pytest.approx(1.0)


def test_once_in_every_step_is_sam():
    ways = []
    for make in (lambda p: LookSAM(p, torch.optim.SGD, every=1, **SGD), lambda p: SAM(p, torch.optim.SGD, **SGD)):
        model = net()
        optimizer = make(model.parameters())
        for number in range(3):
            optimizer.step(closure_of(model, batch(number)))
        ways.append(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*ways, strict=True))


def test_a_radius_that_falls_to_zero_leaves_the_base_optimizer():
    model, plain = net(), net()
    look = LookSAM(model.parameters(), torch.optim.SGD, every=2, lr=0.1)
    look.step(closure_of(model, batch(0)))
    plain.load_state_dict(model.state_dict())
    look.param_groups[0]["rho"] = 0.0
    look.step(closure_of(model, batch(1)))
    base = torch.optim.SGD(plain.parameters(), lr=0.1)
    closure_of(plain, batch(1))()
    base.step()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(
    ("field", "options"), [("alpha", {"alpha": -1.0}), ("every", {"every": 0}), ("between", {"between": "reuse"})]
)
def test_values_out_of_range(field, options):
    with pytest.raises(InputError, match=field):
        LookSAM(net().parameters(), torch.optim.SGD, lr=0.1, **options)
