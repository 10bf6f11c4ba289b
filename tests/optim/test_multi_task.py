"""What F-MTL and SAMO have in common."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from multi_task_cases import TASKS, closures_of, data, groups, joint_of, loss_of, net, same, values
from torch import nn

from remanent.core.gradient_rules import MGDA, CAGrad, FairGrad, LinearScalarization, PCGrad
from remanent.errors import InputError, UnsupportedError
from remanent.optim import FMTL, SAMO

WAYS = [
    (FMTL, {}),
    (SAMO, {}),
    (SAMO, {"estimator": "exact", "beta": 1.0, "match_norms": False}),
    (SAMO, {"estimator": "random"}),
    (SAMO, {"samples": 2}),
    (SAMO, {"shared_draws": True}),
    (SAMO, {"beta": 0.0}),
]
BASES = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}),
    (torch.optim.AdamW, {"lr": 0.01}),
]


def bare(model, rule, optimizer, closures, generator=None):
    """The rule written out: a backward pass per task, heads by their own gradient."""
    parts, trunk = [], dict(model.trunk.named_parameters())
    optimizer.zero_grad()
    for closure in closures.values():
        closure().backward()
        parts.append({name: weight.grad for name, weight in trunk.items()})
        for weight in trunk.values():
            weight.grad = None
    for name, gradient in rule.combined(parts, generator).items():
        trunk[name].grad = gradient
    optimizer.step()


@pytest.mark.parametrize(("base", "options"), BASES)
@pytest.mark.parametrize("kind", [FMTL, SAMO])
@pytest.mark.parametrize("rule", [LinearScalarization(), MGDA(), CAGrad(), FairGrad(2.0)])
def test_rho_zero_is_the_rule_bit_for_bit(kind, rule, base, options):
    model, plain = net(dropout=0.3), net(dropout=0.3)
    optimizer = kind(groups(model), base, rule, rho=0.0, model=model, **options)
    alone = base(groups(plain), **options)
    for step in range(4):
        given = data(step)
        torch.manual_seed(step)
        losses = optimizer.step(closures_of(model, *given))
        drawn = torch.rand(())
        torch.manual_seed(step)
        bare(plain, rule, alone, closures_of(plain, *given))
        assert torch.equal(drawn, torch.rand(())), "the generators went on alike"
        assert list(losses) == list(TASKS)
    assert same(values(model), values(plain))


@pytest.mark.parametrize("kind", [FMTL, SAMO])
def test_weights_without_a_head_are_all_shared(kind):
    model, plain = net(), net()
    optimizer = kind(model.parameters(), torch.optim.SGD, PCGrad(), rho=0.0, lr=0.1)
    optimizer.step(closures_of(model, *data()))
    parts = []
    for closure in closures_of(plain, *data()).values():
        closure().backward()
        parts.append({name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None})
        plain.zero_grad()
    generator = optimizer._generator("rule")
    expected = PCGrad().combined(parts, generator)
    assert len(expected) == 10
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], weight - 0.1 * expected[name])


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_state_dict_goes_on_bit_for_bit(kind, options, tmp_path):
    """Through a file: momentum, what is drawn, and the orders of PCGrad."""
    model = net(norm=True, dropout=0.2)
    make = dict(rho=0.1, lr=0.05, momentum=0.9, **options)
    optimizer = kind(groups(model), torch.optim.SGD, PCGrad(), model=model, **make)
    for step in range(3):
        torch.manual_seed(step)
        optimizer.step(closures_of(model, *data(step)))
    resumed = copy.deepcopy(model)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    again = kind(groups(resumed), torch.optim.SGD, PCGrad(), model=resumed, **{**make, "lr": 7.0, "rho": 0.9})
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again.param_groups[1]["task"] == "a"
    for step in range(3, 6):
        for net_, optimizer_ in ((model, optimizer), (resumed, again)):
            torch.manual_seed(step)
            optimizer_.step(closures_of(net_, *data(step)))
    assert same(values(model), values(resumed))
    other = copy.deepcopy(resumed)
    fresh = kind(groups(other), torch.optim.SGD, PCGrad(), model=other, seed=1, **make)
    fresh.load_state_dict(again.state_dict())
    if kind is SAMO and options.get("beta", 0.5) > 0 and options.get("estimator") != "exact":
        for net_, optimizer_ in ((resumed, again), (other, fresh)):
            optimizer_.step(closures_of(net_, *data(9)))
        assert not same(values(resumed), values(other)), "another seed draws something else"


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_weights_come_back_bit_for_bit_and_nothing_else_changes(kind, options):
    model = net(dropout=0.5).train()
    model.heads["b"].eval()
    model.trunk[0].bias.requires_grad_(False)
    optimizer = kind(groups(model), torch.optim.SGD, PCGrad(), rho=0.7, lr=0.0, model=model, **options)
    before, modes = values(model), [module.training for module in model.modules()]
    storage = [weight.data_ptr() for weight in model.parameters()]
    for step in range(10):
        optimizer.step(closures_of(model, *data(step)))
    assert same(before, values(model))
    assert modes == [module.training for module in model.modules()]
    assert storage == [weight.data_ptr() for weight in model.parameters()]
    assert model.trunk[0].bias.grad is None
    assert not model.trunk[0].bias.requires_grad


@pytest.mark.parametrize(("kind", "options"), WAYS)
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5, 6, 7, 9, 12])
def test_a_closure_that_raises_leaves_everything_as_it_was(kind, options, fails_at):
    model = net(norm=True, dropout=0.1).train()
    optimizer = kind(groups(model), torch.optim.AdamW, MGDA(), rho=0.5, lr=0.1, model=model, **options)
    calls, buffers = [], {}
    good = closures_of(model, *data())

    def failing(task):
        def closure():
            calls.append(task)
            if len(calls) == fails_at:
                raise ValueError("out of memory, say")
            loss = good[task]()
            if len(calls) <= 3:
                buffers.update({name: value.clone() for name, value in model.named_buffers()})
            return loss

        return closure

    before, modes = dict(values(model)), [module.training for module in model.modules()]
    closures = {task: failing(task) for task in TASKS}
    looks = kind is SAMO and options in ({}, {"samples": 2}, {"shared_draws": True})
    if fails_at > (12 if looks else 6):
        optimizer.step(closures)
        assert len(calls) < fails_at, "there is no such call"
        return
    with pytest.raises(ValueError, match="out of memory"):
        optimizer.step(closures)
    assert same({**before, **buffers}, values(model)), "running statistics are those of the first passes"
    assert modes == [module.training for module in model.modules()]
    assert all(weight.grad is None for weight in model.parameters())
    assert not optimizer.state
    optimizer.step(good)
    assert not torch.equal(model.trunk[0].weight, before["trunk.0.weight"])


@pytest.mark.parametrize(("kind", "options"), WAYS)
@pytest.mark.parametrize("joint", [False, True])
def test_running_statistics_are_those_of_the_first_passes(kind, options, joint):
    model, once = net(norm=True).train(), net(norm=True).train()
    optimizer = kind(groups(model), torch.optim.SGD, PCGrad(), rho=0.5, lr=0.0, model=model, **options)
    for step in range(3):
        inputs, labels = data(step)
        optimizer.step((joint_of if joint else closures_of)(model, inputs, labels))
        for _ in range(1 if joint else 3):
            once.trunk(inputs)
    assert same(values(once), values(model))
    assert model.trunk[1].momentum == once.trunk[1].momentum


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_a_tasks_passes_draw_the_same_masks_and_the_step_draws_no_more_than_its_first_passes(kind, options):
    model, masks = net(dropout=0.5).train(), []
    model.trunk[2].register_forward_hook(
        lambda module, _, output: masks.append(output == 0) if module.training else None
    )
    optimizer = kind(groups(model), torch.optim.SGD, PCGrad(), rho=1e-3, lr=0.1, model=model, **options)
    torch.manual_seed(0)
    optimizer.step(closures_of(model, *data()))
    drawn = torch.rand(())
    assert len(masks) == 6
    assert all(torch.equal(masks[task], masks[3 + task]) for task in range(3))
    assert not torch.equal(masks[0], masks[1])
    torch.manual_seed(0)
    for closure in closures_of(model, *data()).values():
        closure()
    assert torch.equal(drawn, torch.rand(()))


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_one_pass_for_all_tasks_is_each_tasks_pass(kind, options):
    one, other = net(torch.float64), net(torch.float64)
    given = data(dtype=torch.float64)
    for model, make in ((one, closures_of), (other, joint_of)):
        optimizer = kind(groups(model), torch.optim.SGD, FairGrad(2.0), rho=0.3, lr=0.1, model=model, **options)
        for _ in range(3):
            here = {task: float(loss_of(model, task, *given).detach()) for task in TASKS}
            losses = optimizer.step(make(model, *given))
            assert {task: float(loss) for task, loss in losses.items()} == pytest.approx(here, rel=1e-12)
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_micro_batches_are_the_batch(kind, options):
    whole, parts = net(torch.float64), net(torch.float64)
    inputs, labels = data(dtype=torch.float64)

    def piece(task, rows):
        return lambda: nn.functional.cross_entropy(parts(inputs[rows], task), labels[task][rows], reduction="sum") / 12

    pieces = {task: [piece(task, slice(0, 5)), piece(task, slice(5, 12))] for task in TASKS}
    for model, closures in ((whole, closures_of(whole, inputs, labels)), (parts, pieces)):
        optimizer = kind(groups(model), torch.optim.SGD, PCGrad(), rho=0.3, lr=0.1, model=model, **options)
        found = [optimizer.step(closures) for _ in range(3)]
    assert float(found[-1]["a"]) > 0
    for mine, its in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_autocast_and_scaler_change_nothing_but_the_scale(kind, options):
    models = [net() for _ in range(2)]
    for model, enabled in zip(models, (True, False), strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)
        optimizer = kind(groups(model), torch.optim.SGD, CAGrad(), rho=0.3, lr=0.1, max_grad_norm=0.5, **options)
        for step in range(3):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                optimizer.step(closures_of(model, *data(step)), scaler)
            scaler.update()
        assert optimizer.skipped == 0
    for mine, its in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "options"), WAYS)
@pytest.mark.parametrize("spoiled", [2, 5])
@pytest.mark.parametrize("scaling", [False, True])
def test_a_step_that_is_not_finite_is_skipped(kind, options, spoiled, scaling):
    model, calls = net(), []
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaling)
    optimizer = kind(groups(model), torch.optim.AdamW, MGDA(), rho=0.3, lr=0.1, model=model, **options)
    good, before = closures_of(model, *data()), values(model)

    def spoil(task):
        def closure():
            calls.extend([task] if torch.is_grad_enabled() else [])
            return good[task]() * (math.inf if len(calls) == spoiled else 1.0)

        return closure

    optimizer.step({task: spoil(task) for task in TASKS}, scaler if scaling else None)
    if scaling:
        scaler.update()
        assert scaler.get_scale() == 512.0
    assert optimizer.skipped == 1
    assert not optimizer.state
    assert same(before, values(model))
    optimizer.step(good)
    assert not same(before, values(model))


@pytest.mark.parametrize("kind", [FMTL, SAMO])
def test_a_group_added_before_the_first_step_is_a_head_like_others(kind):
    at_once, later = net(), net()
    first, *others = groups(later)
    optimizers = [kind(some, torch.optim.SGD, PCGrad(), rho=0.2, lr=0.1) for some in (groups(at_once), [first])]
    for group in others:
        optimizers[1].add_param_group(group)
    for model, optimizer in zip((at_once, later), optimizers, strict=True):
        for step in range(2):
            optimizer.step(closures_of(model, *data(step)))
    assert same(values(at_once), values(later))


@pytest.mark.parametrize("kind", [FMTL, SAMO])
def test_losses_are_those_at_w_and_frozen_weights_stay(kind):
    model = net()
    for weight in model.trunk[0].parameters():
        weight.requires_grad_(False)
    before, given = values(model), data()
    expected = {task: float(loss_of(model, task, *given).detach()) for task in TASKS}
    optimizer = kind(groups(model), torch.optim.SGD, PCGrad(), rho=0.2, lr=0.1, model=model)
    losses = optimizer.step(closures_of(model, *given))
    assert {task: float(loss) for task, loss in losses.items()} == pytest.approx(expected)
    assert not any(loss.requires_grad for loss in losses.values())
    after = values(model)
    assert torch.equal(before["trunk.0.weight"], after["trunk.0.weight"])
    assert not torch.equal(before["heads.c.weight"], after["heads.c.weight"])


@pytest.mark.parametrize("kind", [FMTL, SAMO])
def test_groups_have_a_radius_of_their_own(kind):
    """A radius of 0 for heads keeps them where they are in the second passes."""
    model, seen = net(), []
    optimizer = kind(groups(model, rho=0.0), torch.optim.SGD, PCGrad(), rho=0.2, lr=0.1, model=model)
    good = closures_of(model, *data())

    def watched(task):
        def closure():
            if torch.is_grad_enabled():
                seen.append((model.trunk[0].weight.detach().clone(), model.heads[task].weight.detach().clone()))
            return good[task]()

        return closure

    optimizer.step({task: watched(task) for task in TASKS})
    for here, there in zip(seen[:3], seen[3:], strict=True):
        assert not torch.equal(here[0], there[0])
        assert torch.equal(here[1], there[1])


# What is refused


@pytest.mark.parametrize("kind", [FMTL, SAMO])
def test_closures_that_are_not_right(kind):
    model = net()
    optimizer = kind(groups(model), torch.optim.SGD, PCGrad(), lr=0.1, model=model)
    good, before = closures_of(model, *data()), values(model)

    def ran_backward():
        loss = good["a"]()
        loss.backward(retain_graph=True)
        return loss

    def of_another():
        return good["a"]() + good["b"]()

    for closures, text in (
        ({}, "at least one task"),
        ({"a": ran_backward}, "backward has been called"),
        ({"a": lambda: 1.0}, "with its graph"),
        ({"a": lambda: good["a"]().detach()}, "with its graph"),
        ({"a": lambda: good["a"]() * torch.ones(2)}, "one number"),
        ({"a": of_another}, "head of 'b'"),
        (lambda: None, "task -> loss"),
    ):
        with pytest.raises(InputError, match=text):
            optimizer.step(closures)
    assert same(before, values(model))
    with pytest.raises(UnsupportedError, match="closures"):
        optimizer.first_step()


@pytest.mark.parametrize("kind", [FMTL, SAMO])
def test_values_out_of_range_of_both(kind):
    for options, field in (({"rho": -1.0}, "rho"), ({"eta": -1.0}, "eta"), ({"max_grad_norm": 0.0}, "max_grad_norm")):
        with pytest.raises(InputError, match=field):
            kind(net().parameters(), torch.optim.SGD, PCGrad(), lr=0.1, **options)
    with pytest.raises(InputError, match="rule"):
        kind(net().parameters(), torch.optim.SGD, torch.optim.SGD, lr=0.1)
