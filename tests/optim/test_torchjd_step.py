"""Whole steps of a shared trunk beside TorchJD's own backward, where it is installed (`make peers`), in float64."""

from __future__ import annotations

import pytest
import torch
from multi_task_cases import TASKS, closures_of, data, groups, joint_of, net
from torch import nn

from remanent.core.gradient_rules import IMTLG, AlignedMTL, FairGrad, LinearScalarization, PCGrad, UPGrad
from remanent.optim import FMTL

peer = pytest.importorskip("torchjd.aggregation", reason="TorchJD is not installed: make peers")
projectors = pytest.importorskip("torchjd.linalg", reason="TorchJD is not installed: make peers")
autojac = pytest.importorskip("torchjd.autojac", reason="TorchJD is not installed: make peers")

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
RULES = {
    "sum": (LinearScalarization(), lambda: peer.Sum()),
    "IMTLG": (IMTLG(), lambda: peer.IMTLG()),
    "AlignedMTL": (AlignedMTL(), lambda: peer.AlignedMTL(torch.ones(len(TASKS), dtype=torch.float64))),
    "FairGrad": (FairGrad(2.0), lambda: peer.FairGrad(2.0)),
    "PCGrad": (PCGrad(), lambda: peer.PCGrad()),
    "UPGrad": (UPGrad(), lambda: peer.UPGrad(projector=projectors.QuadprogProjector(norm_eps=0.0, reg_eps=0.0))),
}


@pytest.mark.parametrize("passes", [closures_of, joint_of])
@pytest.mark.parametrize("name", RULES)
def test_three_steps(name, passes):
    rule, aggregator = RULES[name]
    model, other = net(torch.float64), net(torch.float64)
    ours = FMTL(groups(model), torch.optim.SGD, rule, rho=0.0, **SGD)
    theirs = torch.optim.SGD(other.parameters(), **SGD)
    aggregate = aggregator()
    for number in range(3):
        inputs, labels = data(number, dtype=torch.float64)
        orders = ours._generator("rule").initial_seed()  # of PCGrad
        ours.step(passes(model, inputs, labels))
        theirs.zero_grad()
        features = torch.tanh(other.trunk(inputs))
        losses = [nn.functional.cross_entropy(other.heads[task](features), labels[task]) for task in TASKS]
        autojac.mtl_backward(losses, features)
        with torch.random.fork_rng([]):
            torch.manual_seed(orders)
            autojac.jac_to_grad(other.trunk.parameters(), aggregate)
        theirs.step()
        for mine, its in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)
