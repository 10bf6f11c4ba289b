"""Round a rule that adds up, gradients are added as they come: the same result, and none waits for another."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from multi_task_cases import TASKS, closures_of, data, groups, net, same, values

from remanent.core.gradient_rules import LinearScalarization
from remanent.optim import FMTL, SAMO

WAYS = [(FMTL, {}), (SAMO, {}), (SAMO, {"beta": 0.0}), (SAMO, {"samples": 2})]


class KeptApart(LinearScalarization):
    """The same rule, whose gradients wait for each other."""

    adds_up = False


@pytest.mark.parametrize(("kind", "options"), WAYS)
@pytest.mark.parametrize("radii", [(0.3, 0.3, 0.3), (0.0, 0.3, 0.0), (0.3, 0.0, 0.0)])  # trunk, head a, other heads
@pytest.mark.parametrize("scaling", [False, True])
def test_it_is_the_same_as_with_gradients_kept_apart(kind, options, radii, scaling):
    found = []
    for rule in (LinearScalarization(), KeptApart()):
        model = net(norm=True, dropout=0.2).train()
        trunk, *heads = groups(model)
        parts = [{**trunk, "rho": radii[0]}, {**heads[0], "rho": radii[1]}]
        parts += [{**head, "rho": radii[2]} for head in heads[1:]]
        optimizer = kind(parts, torch.optim.SGD, rule, lr=0.1, model=model, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaling)
        for step in range(3):
            torch.manual_seed(step)
            optimizer.step(closures_of(model, *data(step)), scaler if scaling else None)
            scaler.update()
        found.append({**values(model), "drawn": torch.rand(())})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=0, atol=1e-6)
    assert torch.equal(found[0]["drawn"], found[1]["drawn"])


def most_gradients(kind, rule, tasks, **options):
    """Most tensors as large as the trunk's first weight that there are while a task's loss is taken."""
    model = net(tasks=tasks)
    optimizer = kind(groups(model), torch.optim.SGD, rule, rho=0.3, lr=0.1, **options)
    counts = []

    def watched(closure):
        def counting():
            counts.append(sum(type(item) is torch.Tensor and item.shape == (8, 5) for item in gc.get_objects()))
            return closure()

        return counting

    optimizer.step({task: watched(one) for task, one in closures_of(model, *data(tasks=tasks)).items()})
    return max(counts)


@pytest.mark.parametrize(("kind", "options"), [(FMTL, {}), (SAMO, {"beta": 0.0}), (SAMO, {})])
def test_no_gradient_is_kept_for_each_task(kind, options):
    few, many = "abc", "abcdefghi"
    assert most_gradients(kind, LinearScalarization(), many, **options) == most_gradients(
        kind, LinearScalarization(), few, **options
    )
    assert most_gradients(kind, KeptApart(), many, **options) >= most_gradients(kind, KeptApart(), few, **options) + 6


@pytest.mark.parametrize(("kind", "options"), WAYS)
@pytest.mark.parametrize("passed", range(1, 7))
@pytest.mark.parametrize("how", ["not finite", "raises"])
def test_what_goes_wrong_at_any_pass_moves_nothing(kind, options, passed, how):
    model, calls = net(dropout=0.1).train(), []
    optimizer = kind(groups(model), torch.optim.AdamW, LinearScalarization(), rho=0.3, lr=0.1, **options)
    good, before = closures_of(model, *data()), values(model)

    def spoil(task):
        def closure():
            calls.extend([task] if torch.is_grad_enabled() else [])
            if len(calls) == passed and how == "raises":
                raise ValueError("out of memory, say")
            return good[task]() * (math.inf if len(calls) == passed else 1.0)

        return closure

    closures = {task: spoil(task) for task in TASKS}
    if how == "raises":
        with pytest.raises(ValueError, match="out of memory"):
            optimizer.step(closures)
    else:
        optimizer.step(closures)
        assert optimizer.skipped == 1
    assert not optimizer.state
    assert same(before, values(model))
    assert all(weight.grad is None for weight in model.parameters()) or how == "not finite"
