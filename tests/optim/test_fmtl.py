from __future__ import annotations

import math

import pytest
import torch
from multi_task_cases import TASKS, closures_of, data, groups, loss_of, net, values
from torch import nn

from remanent.core.gradient_rules import MGDA, LinearScalarization, NashMTL, PCGrad
from remanent.optim import FMTL, SAMO


def test_a_step_by_hand():
    """L = h theta^2 / 2 at theta = 1, rho = 0.1: g = h, gS = 1.1 h, f = 0.1 h; two tasks that agree."""
    theta = nn.Parameter(torch.ones(1))
    optimizer = FMTL([theta], torch.optim.SGD, LinearScalarization(), rho=0.1, lr=0.01)
    optimizer.step({"a": lambda: (theta**2).sum(), "b": lambda: 3 * (theta**2).sum()})
    assert theta.grad.item() == pytest.approx(1.1 * 2 + 1.1 * 6)
    assert theta.item() == pytest.approx(1 - 0.01 * 8.8)


def test_gradients_and_what_flatness_adds_are_combined_apart():
    """MGDA takes the shorter of two gradients that agree: min g + min f, which is not min gS where they are of
    different tasks."""
    w = nn.Parameter(torch.tensor([1.0, 0.0]))
    # At w: g_a = (1, 0), f_a = (0.5 * 1, 0) for h = 1; g_b = (2, 0), f_b = 0, for a loss that is linear.
    closures = {"a": lambda: w[0] ** 2 / 2, "b": lambda: 2 * w[0]}
    optimizer = FMTL([w], torch.optim.SGD, MGDA(), rho=0.5, lr=0.1)
    optimizer.step(closures)
    assert w.grad.tolist() == pytest.approx([1.0, 0.0])
    direct = nn.Parameter(torch.tensor([1.0, 0.0]))
    closures = {"a": lambda: direct[0] ** 2 / 2, "b": lambda: 2 * direct[0]}
    l_sam = SAMO([direct], torch.optim.SGD, MGDA(), rho=0.5, beta=1.0, estimator="exact", match_norms=False, lr=0.1)
    l_sam.step(closures)
    assert direct.grad.tolist() == pytest.approx([1.5, 0.0])


def test_the_formula_in_float64():
    """Worked out by torch.autograd.grad, without `.grad`, closures or restoring."""
    model, rule, rho = net(torch.float64), PCGrad(), 0.3
    reference = net(torch.float64)
    optimizer = FMTL(groups(model, rho=0.2), torch.optim.SGD, rule, rho=rho, lr=0.1, momentum=0.9, model=model)
    plain = torch.optim.SGD(groups(reference), lr=0.1, momentum=0.9)
    given = data(dtype=torch.float64)
    for _ in range(3):
        generator = optimizer._generator("rule")
        here, flat = [], []
        for task in TASKS:
            trunk = {f"trunk.{name}": weight for name, weight in reference.trunk.named_parameters()}
            head = {f"heads.{task}.{name}": weight for name, weight in reference.heads[task].named_parameters()}
            loss = loss_of(reference, task, *given)
            first = dict(
                zip([*trunk, *head], torch.autograd.grad(loss, [*trunk.values(), *head.values()]), strict=True)
            )
            there = {}
            for part, radius in ((trunk, rho), (head, 0.2)):
                length = math.sqrt(sum(float((first[name] ** 2).sum()) for name in part))
                there |= {n: (w + radius * first[n] / length).detach().requires_grad_() for n, w in part.items()}
            output = torch.func.functional_call(reference, there, (given[0], task))
            second = torch.autograd.grad(nn.functional.cross_entropy(output, given[1][task]), list(there.values()))
            second = dict(zip(there, second, strict=True))
            here.append({name: first[name] for name in trunk})
            flat.append({name: second[name] - first[name] for name in trunk})
            for name, weight in head.items():
                weight.grad = second[name]
        u, v = rule.combined(here, generator), rule.combined(flat, generator)
        for name, weight in trunk.items():
            weight.grad = u[name] + v[name]
        plain.step()
        optimizer.step(closures_of(model, *given))
        for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)


def test_round_a_linear_rule_apart_is_together():
    one, other = net(torch.float64), net(torch.float64)
    given = data(dtype=torch.float64)
    fmtl = FMTL(groups(one), torch.optim.SGD, LinearScalarization(), rho=0.3, lr=0.1)
    l_sam = SAMO(
        groups(other),
        torch.optim.SGD,
        LinearScalarization(),
        rho=0.3,
        beta=1.0,
        estimator="exact",
        match_norms=False,
        lr=0.1,
    )
    for _ in range(3):
        fmtl.step(closures_of(one, *given))
        l_sam.step(closures_of(other, *given))
    for name, value in values(one).items():
        torch.testing.assert_close(value, values(other)[name], rtol=0, atol=1e-12)


def test_a_task_without_a_gradient_moves_nothing():
    model = net()
    optimizer = FMTL(groups(model), torch.optim.SGD, LinearScalarization(), rho=0.3, lr=0.1)
    zero = {**closures_of(model, *data()), "b": lambda: 0 * loss_of(model, "b", *data())}
    before = values(model)
    optimizer.step(zero)
    after = values(model)
    assert torch.equal(before["heads.b.weight"], after["heads.b.weight"])
    assert all(torch.isfinite(value).all() for value in after.values())


def test_nash_gives_flatness_as_much_as_the_gradient_unless_normalized():
    """The rule forgets how long gradients are: that is what `normalize` is for."""
    for normalize, share in ((False, 1.0), (True, None)):
        model = net(torch.float64)
        given, rule = data(dtype=torch.float64), NashMTL(normalize=normalize)
        lengths = []
        for rho in (1e-6, 0.0):
            optimizer = FMTL(groups(model), torch.optim.SGD, rule, rho=rho, lr=0.0)
            optimizer.step(closures_of(model, *given))
            grads = [weight.grad for weight in model.trunk.parameters()]
            lengths.append(torch.cat([grad.flatten() for grad in grads]))
        added = float((lengths[0] - lengths[1]).norm() / lengths[1].norm())
        assert added == pytest.approx(share, rel=1e-3) if share else added < 1e-4
