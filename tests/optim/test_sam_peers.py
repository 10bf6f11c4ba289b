"""One package that has them: pytorch_optimizer, where it is installed (`make peers`)."""

from __future__ import annotations

import pytest
import torch
from sam_cases import SGD, batch, closure_of, net
from torch import nn

from remanent.optim import GSAM, SAM, LookSAM

peer = pytest.importorskip("pytorch_optimizer")


def agree(model, other, ours, theirs, steps, data):
    for number in range(steps):
        ours.step(closure_of(model, data(number)))
        theirs.zero_grad()
        closure = closure_of(other, data(number))
        closure()
        theirs.first_step(zero_grad=True)
        closure()
        theirs.second_step(zero_grad=True)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)


def double(number):
    return batch(number, torch.float64)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam(adaptive):
    model, other = net(torch.float64), net(torch.float64)
    options = {"rho": 0.3, "adaptive": adaptive, **SGD}
    ours = SAM(model.parameters(), torch.optim.SGD, **options)
    agree(model, other, ours, peer.SAM(other.parameters(), torch.optim.SGD, **options), 3, double)


def test_look_sam_on_one_tensor():
    """Its norms are per tensor, and after a full step it takes the gradient at w with a pass of its own."""
    model, other = (nn.Linear(5, 3, bias=False).double() for _ in range(2))
    other.load_state_dict(model.state_dict())
    options = {"rho": 0.3, "alpha": 0.7, "lr": 0.1}
    ours = LookSAM(model.parameters(), torch.optim.SGD, every=2, **options)
    theirs = peer.LookSAM(other.parameters(), torch.optim.SGD, k=2, **options)
    for number in range(4):
        ours.step(closure_of(model, double(number)))
        theirs.zero_grad()
        closure = closure_of(other, double(number))
        closure()
        if number % 2 == 0:
            theirs.first_step(zero_grad=True)
            closure()
        theirs.second_step(zero_grad=True)
    torch.testing.assert_close(model.weight, other.weight, rtol=0, atol=1e-6)


def test_gsam_without_its_orthogonal_part_is_sam():
    model, other = net(torch.float64), net(torch.float64)
    ours = GSAM(model.parameters(), torch.optim.SGD, rho=0.3, alpha=0.0, **SGD)
    agree(model, other, ours, peer.SAM(other.parameters(), torch.optim.SGD, rho=0.3, **SGD), 3, double)
