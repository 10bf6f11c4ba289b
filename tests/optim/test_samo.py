from __future__ import annotations

import math

import pytest
import torch
from multi_task_cases import TASKS, closures_of, data, groups, joint_of, loss_of, net, values
from torch import nn

from remanent.core.gradient_rules import LinearScalarization, PCGrad
from remanent.errors import InputError
from remanent.optim import SAMO
from remanent.optim.samo import mix


@pytest.mark.parametrize(("sign", "mixed"), [(1.0, (4.0, 2.0)), (-1.0, (-1.0, 2.0))])
def test_the_mix_by_hand(sign, mixed):
    g, h = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([sign, 0.0])}
    torch.testing.assert_close(mix(g, h, 0.5, True)["w"], torch.tensor(mixed))
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SAMO([weight], torch.optim.SGD, PCGrad(), rho=0.1, lr=0.1)
    with torch.no_grad():
        optimizer._climb(optimizer._weights(), {"0.0": torch.tensor(mixed)})
    assert weight.tolist() == pytest.approx([0.1 * value / math.hypot(*mixed) for value in mixed])


def test_a_mix_of_nothing_is_the_global_part():
    g = {"w": torch.tensor([3.0, 4.0]), "v": torch.zeros(2)}
    for wrong in (torch.zeros(2), torch.full((2,), math.inf), torch.full((2,), math.nan), None):
        h = {"v": torch.ones(2)} | ({} if wrong is None else {"w": wrong})
        found = mix(g, h, 0.9, True)
        assert torch.equal(found["w"], g["w"])
        assert torch.equal(found["v"], torch.zeros(2))
    torch.testing.assert_close(mix(g, {"w": torch.ones(2)}, 0.25, False)["w"], torch.tensor([2.5, 3.25]))


def directions(model, given, task, count=1, **options):
    """The local part for one task at each of some updates, and its gradient."""
    optimizer = SAMO(groups(model), torch.optim.SGD, PCGrad(), rho=0.1, lr=0.0, model=model, **options)
    found = []

    def kept(passes, name, like, home, estimate=optimizer._estimate):
        local = estimate(passes, name, like, home)
        if name == task:
            found.append(torch.cat([local[key].flatten().clone() for key in like]))
        return local

    optimizer._estimate = kept
    for _ in range(count):
        optimizer.step(closures_of(model, *given))
    gradient = torch.autograd.grad(loss_of(model, task, *given), list(model.trunk.parameters()))
    return found, torch.cat([part.flatten() for part in gradient])


def test_the_estimate_is_a_directional_derivative_along_what_is_drawn():
    model, given = net(torch.float64), data(dtype=torch.float64)
    spsa, gradient = directions(model, given, "b", difference=1e-4)
    drawn, _ = directions(model, given, "b", estimator="random")
    slope = float(gradient @ drawn[0])
    torch.testing.assert_close(spsa[0], slope * drawn[0], rtol=1e-4, atol=1e-8)


def test_more_samples_come_nearer_to_the_gradient():
    """cos of one sample has mean sqrt(2 / (pi d)); of n, about sqrt(n / (n + d))."""
    model, given = net(torch.float64), data(dtype=torch.float64)
    means = {}
    for samples in (1, 16, 400):
        found, gradient = directions(model, given, "a", 60 if samples < 400 else 3, samples=samples, difference=1e-3)
        cosines = [float(torch.cosine_similarity(one, gradient, dim=0)) for one in found]
        means[samples] = sum(cosines) / len(cosines)
    size = len(gradient)
    assert means[1] == pytest.approx(math.sqrt(2 / (math.pi * size)), rel=0.5)
    assert means[16] == pytest.approx(math.sqrt(16 / (16 + size)), rel=0.25)
    assert means[400] == pytest.approx(math.sqrt(400 / (400 + size)), rel=0.1)


def test_draws_leave_torchs_generators_alone_and_are_new_for_each_task_and_update():
    model, given = net(), data()
    state = torch.get_rng_state()
    first, _ = directions(model, given, "a", 3, estimator="random")
    other, _ = directions(model, given, "b", 1, estimator="random")
    assert torch.equal(state, torch.get_rng_state())
    again, _ = directions(model, given, "a", 3, estimator="random")
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({tuple(one.tolist()) for one in [*first, *other]}) == 4


def perturbations(model, closures_for, **options):
    """How far each task's second pass is from w: task -> (of the trunk, of its head)."""
    optimizer = SAMO(groups(model), torch.optim.SGD, PCGrad(), rho=0.1, lr=0.0, model=model, **options)
    found, start = {}, values(model)

    def there(task, passes):
        now = values(model)
        moved = {name: now[name] - start[name] for name in start}
        trunk = torch.cat([value.flatten() for name, value in moved.items() if name.startswith("trunk")])
        head = torch.cat([value.flatten() for name, value in moved.items() if name.startswith(f"heads.{task}")])
        found[task] = (trunk, head, [n for n, v in moved.items() if v.any() and n.startswith("heads")])
        return passes

    from remanent.optim.multi_task import Passes

    original = Passes.there
    Passes.there = lambda self, task: there(task, original(self, task))
    try:
        optimizer.step(closures_for)
    finally:
        Passes.there = original
    return found


@pytest.mark.parametrize("joint", [False, True])
def test_g_sam_climbs_the_mean_loss_for_all_tasks(joint):
    model, given = net(torch.float64), data(dtype=torch.float64)
    found = perturbations(model, (joint_of if joint else closures_of)(model, *given), beta=0.0)
    mean = sum(loss_of(model, task, *given) for task in TASKS) / 3
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(mean, list(model.trunk.parameters()))])
    for task, (trunk, head, heads) in found.items():
        torch.testing.assert_close(trunk, 0.1 * gradient / gradient.norm())
        assert float(head.norm()) == pytest.approx(0.1)
        assert heads == [f"heads.{task}.weight", f"heads.{task}.bias"], "no other head moves"


def test_l_sam_climbs_each_tasks_loss():
    model, given = net(torch.float64), data(dtype=torch.float64)
    options = {"beta": 1.0, "estimator": "exact", "match_norms": False}
    for task, (trunk, head, _) in perturbations(model, closures_of(model, *given), **options).items():
        weights = [*model.trunk.parameters(), *model.heads[task].parameters()]
        parts = torch.autograd.grad(loss_of(model, task, *given), weights)
        shared, own = (torch.cat([part.flatten() for part in some]) for some in (parts[:-2], parts[-2:]))
        torch.testing.assert_close(trunk, 0.1 * shared / shared.norm())
        torch.testing.assert_close(head, 0.1 * own / own.norm())


def test_norms_are_matched_tensor_by_tensor():
    model, given = net(torch.float64), data(dtype=torch.float64)
    found = perturbations(model, closures_of(model, *given), beta=1.0)
    mean = sum(loss_of(model, task, *given) for task in TASKS) / 3
    gradient = torch.autograd.grad(mean, list(model.trunk.parameters()))
    expected = torch.stack([part.norm() for part in gradient])
    for trunk, _, _ in found.values():
        lengths = torch.stack([part.norm() for part in trunk.split([part.numel() for part in gradient])])
        torch.testing.assert_close(lengths, 0.1 * expected / expected.norm())


@pytest.mark.parametrize("local_in_eval", [True, False])
def test_the_mode_of_the_forward_passes(local_in_eval):
    model, seen = net(norm=True, dropout=0.5).train(), []
    model.trunk[0].register_forward_hook(lambda module, *_: seen.append((torch.is_grad_enabled(), module.training)))
    optimizer = SAMO(
        groups(model), torch.optim.SGD, PCGrad(), rho=0.1, lr=0.1, model=model, local_in_eval=local_in_eval
    )
    optimizer.step(joint_of(model, *data()))
    assert len(seen) == 1 + 3 * 2 + 3, "one first pass, two looks and one pass for each task"
    assert [mode for grad, mode in seen if not grad] == [not local_in_eval] * 6
    assert all(mode for grad, mode in seen if grad)


def test_every_look_in_eval_mode_reads_the_statistics_of_the_first_pass():
    model, seen = net(norm=True).train(), []
    norm = model.trunk[1]
    norm.register_forward_pre_hook(
        lambda module, _: None if module.training else seen.append(module.running_mean.clone())
    )
    optimizer = SAMO(groups(model), torch.optim.SGD, PCGrad(), rho=0.5, lr=0.1, model=model)
    optimizer.step(joint_of(model, *data()))
    assert len(seen) == 3 * 2
    assert all(torch.equal(mean, norm.running_mean) for mean in seen)


def test_eval_mode_is_the_default_where_there_is_a_model():
    model = net()
    assert SAMO(groups(model), torch.optim.SGD, PCGrad(), lr=0.1, model=model).local_in_eval is True
    assert SAMO(groups(model), torch.optim.SGD, PCGrad(), lr=0.1).local_in_eval is False


def test_one_draw_for_all_tasks_is_looked_at_once():
    model, seen = net(torch.float64), []
    given = data(dtype=torch.float64)
    model.trunk[0].register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    optimizer = SAMO(groups(model), torch.optim.SGD, PCGrad(), rho=0.1, lr=0.1, samples=2, shared_draws=True)
    optimizer.step(joint_of(model, *given))
    assert seen.count(False) == 2 * 2
    assert len(seen) == 1 + 2 * 2 + 3
    options = {"difference": 1e-4, "shared_draws": True}
    (one,), gradient = directions(net(torch.float64), given, "a", **options)
    (drawn,), _ = directions(net(torch.float64), given, "b", estimator="random", shared_draws=True)
    torch.testing.assert_close(one, float(gradient @ drawn) * drawn, rtol=1e-4, atol=1e-8)


def test_it_trains():
    model, given = net(), data()
    optimizer = SAMO(groups(model), torch.optim.Adam, LinearScalarization(), rho=0.05, lr=0.02, model=model)
    losses = [optimizer.step(joint_of(model, *given)) for _ in range(60)]
    assert all(float(losses[-1][task]) < 0.5 * float(losses[0][task]) for task in TASKS)


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 1.5},
        {"beta": -0.1},
        {"estimator": "forward"},
        {"samples": 0},
        {"difference": 0.0},
        {"samples": 2, "estimator": "random"},
        {"difference": 0.1, "estimator": "exact"},
        {"local_in_eval": True},
    ],
)
def test_values_out_of_range_of_samo(options):
    with pytest.raises(InputError, match=next(iter(options))):
        SAMO(net().parameters(), torch.optim.SGD, PCGrad(), lr=0.1, **options)
