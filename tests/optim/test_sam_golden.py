"""Steps of the published code, in float64: golden/SOURCE.md says how they were made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sam_cases import SGD, closure_of, losses_of, net
from torch import nn

from remanent.optim import ASAM, ESAM, GSAM, SAM

GOLDEN = load_file(Path(__file__).with_name("golden") / "sam_family.safetensors")
STEPS = 3
CASES = {
    "davda54-sam": lambda m: SAM(m.parameters(), torch.optim.SGD, rho=0.3, **SGD),
    "davda54-sam-adaptive": lambda m: SAM(m.parameters(), torch.optim.SGD, rho=0.3, adaptive=True, **SGD),
    "asam": lambda m: ASAM(m.named_parameters(), torch.optim.SGD, **SGD),
    "gsam": lambda m: GSAM(m.parameters(), torch.optim.SGD, rho=0.6, rho_min=0.1, alpha=0.4, **SGD),
    "gsam-adaptive": lambda m: GSAM(m.parameters(), torch.optim.SGD, rho=0.6, rho_min=0.1, adaptive=True, **SGD),
    # One record fewer than the share: they keep those above the smallest of the share.
    "esam-records": lambda m: ESAM(m.parameters(), torch.optim.SGD, rho=0.3, beta=1.0, gamma=5 / 12, **SGD),
    "esam": lambda m: ESAM(m.parameters(), torch.optim.SGD, rho=0.3, beta=0.5, gamma=5 / 12, **SGD),
}


def start():
    model = net(torch.float64)
    with torch.no_grad():
        for weight, value in zip(model.parameters(), (GOLDEN[f"start/{n}"] for n in names()), strict=True):
            weight.copy_(value)
    return model


def names():
    return ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_published_code(case):
    model = start()
    optimizer = CASES[case](model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4) if case.startswith("gsam") else None
    for number in range(STEPS):
        data = GOLDEN["inputs"][number], GOLDEN["labels"][number]
        if isinstance(optimizer, ESAM):
            # Their draws: none in the first step, and whole tensors in the others.
            optimizer._moves = {
                f"0.{index}" for index, moves in enumerate(GOLDEN[f"{case}/{number}/moves"].tolist()) if moves
            }
            loss = optimizer.step(losses_of(model, data), records=12)
        else:
            loss = optimizer.step(closure_of(model, data))
        if schedule is not None:
            schedule.step()
        for name, weight in zip(names(), model.parameters(), strict=True):
            torch.testing.assert_close(weight.detach(), GOLDEN[f"{case}/{number}/{name}"], rtol=0, atol=1e-6)
        if number == 0:
            assert float(loss) == pytest.approx(float(nn.functional.cross_entropy(start()(data[0]), data[1])))


def test_the_cases_are_different_from_another_and_from_the_start():
    ends = [torch.cat([GOLDEN[f"{case}/{STEPS - 1}/{name}"].flatten() for name in names()]) for case in CASES]
    ends.append(torch.cat([GOLDEN[f"start/{name}"].flatten() for name in names()]))
    for number, one in enumerate(ends):
        assert all(float((one - other).abs().max()) > 1e-4 for other in ends[:number])
