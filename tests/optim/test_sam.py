from __future__ import annotations

import copy
import math
import weakref

import pytest
import torch
from torch import nn

from remanent.core.displacement import Ascent
from remanent.core.method import Method
from remanent.core.task import Task
from remanent.core.update import Update
from remanent.errors import InputError, UnsupportedError
from remanent.optim import SAM

BASES = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}),
    (torch.optim.AdamW, {"lr": 0.01}),
]


def bowl(w):
    """L = (x^2 + 4 y^2) / 2, on which the card's cases are worked by hand."""
    return (w[0] ** 2 + 4 * w[1] ** 2) / 2


def net(dtype=torch.float32, norm=False, dropout=0.0, seed=0):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(8, 3)).to(dtype)


def batch(count=12, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator).to(dtype), torch.randint(0, 3, (count,), generator=generator)


def closure_of(model, inputs, labels, seen=None):
    def closure():
        loss = nn.functional.cross_entropy(model(inputs).float(), labels)
        loss.backward()
        if seen is not None:
            seen.append([weight.detach().clone() for weight in model.parameters()])
        return loss

    return closure


def values(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


# By hand


@pytest.mark.parametrize(
    ("start", "options", "e"),
    [
        ((1.0, 1.0), {}, (0.12127, 0.48507)),
        ((2.0, 1.0), {"adaptive": True}, (0.70711, 0.35355)),
        ((2.0, 1.0), {"adaptive": True, "eta": 0.01}, (0.70888, 0.35797)),
    ],
)
def test_a_step_by_hand(start, options, e):
    w, seen = nn.Parameter(torch.tensor(start)), []
    optimizer = SAM([w], torch.optim.SGD, rho=0.5, lr=0.1, **options)

    def closure():
        seen.append(w.tolist())
        loss = bowl(w)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert float(loss) == float(bowl(torch.tensor(start))), "the loss at w"
    assert not loss.requires_grad
    assert seen[0] == list(start)
    assert [there - here for there, here in zip(seen[1], start, strict=True)] == pytest.approx(e, abs=1e-5)
    after = [start[0] - 0.1 * (start[0] + e[0]), start[1] - 0.1 * 4 * (start[1] + e[1])]
    assert w.tolist() == pytest.approx(after, abs=1e-5)
    if not options:
        assert w.tolist() == pytest.approx([0.88787, 0.40597], abs=1e-5)


def test_first_and_second_step_are_step():
    ways = []
    for split in (False, True):
        model = net()
        optimizer = SAM(model.parameters(), torch.optim.AdamW, lr=0.01)
        closure = closure_of(model, *batch())
        for _ in range(3):
            if split:
                optimizer.zero_grad()
                closure()
                assert optimizer.first_step()
                closure()
                optimizer.second_step()
            else:
                optimizer.step(closure)
        ways.append(values(model))
    assert all(torch.equal(ways[0][name], ways[1][name]) for name in ways[0])


@pytest.mark.parametrize(("base", "options"), BASES)
@pytest.mark.parametrize("eta", [None, 0.01])
def test_the_formula_in_float64(base, options, eta):
    """Worked out by torch.autograd.grad, without `.grad`, closures or restoring."""
    model, reference = net(torch.float64), net(torch.float64)
    sam = SAM(model.parameters(), base, rho=0.3, adaptive=eta is not None, eta=eta or 0.0, **options)
    plain = base(reference.parameters(), **options)
    data = batch(dtype=torch.float64)
    for _ in range(3):
        here = dict(reference.named_parameters())
        loss = nn.functional.cross_entropy(reference(data[0]).float(), data[1])
        gradients = dict(zip(here, torch.autograd.grad(loss, list(here.values())), strict=True))
        scale = {name: 1.0 if eta is None else w.detach().abs() + eta for name, w in here.items()}
        length = math.sqrt(sum(float(((scale[n] * g) ** 2).sum()) for n, g in gradients.items()))
        there = {n: (w + 0.3 * scale[n] ** 2 * gradients[n] / length).detach() for n, w in here.items()}
        there = {name: w.requires_grad_() for name, w in there.items()}
        output = torch.func.functional_call(reference, there, data[0])
        second = torch.autograd.grad(nn.functional.cross_entropy(output.float(), data[1]), list(there.values()))
        for weight, gradient in zip(here.values(), second, strict=True):
            weight.grad = gradient
        plain.step()
        sam.step(closure_of(model, *data))
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight, here[name], rtol=0, atol=1e-6)


def test_a_method_at_an_ascent_is_the_same(tiny_llama, make_batch, mean_loss):
    """The thin composition of the ground floor: same masks of dropout, same norm, same step."""
    one, other = (tiny_llama(dropout=0.2).train() for _ in range(2))
    batches = [make_batch(6, seed=seed) for seed in range(3)]
    update = Update(
        one,
        Method(Task(), points=[Ascent(0.1)]),
        torch.optim.AdamW(one.parameters(), lr=1e-2),
        steps=3,
        max_grad_norm=0.5,
    )
    sam = SAM(other.parameters(), torch.optim.AdamW, rho=0.1, lr=1e-2, model=other, max_grad_norm=0.5)
    for number, given in enumerate(batches):
        torch.manual_seed(number)
        update({"task": given})
        torch.manual_seed(number)
        sam.step(lambda given=given: (loss := mean_loss(other, given), loss.backward())[0])
    for (name, mine), its in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6, msg=name)


# What must be the base optimizer's


@pytest.mark.parametrize(("base", "options"), BASES)
def test_rho_zero_is_the_base_bit_for_bit_in_one_pass(base, options):
    model, plain, seen = net(dropout=0.3), net(dropout=0.3), []
    sam, alone = SAM(model.parameters(), base, rho=0.0, **options), base(plain.parameters(), **options)
    for step in range(5):
        data = batch(seed=step)
        torch.manual_seed(step)
        sam.step(closure_of(model, *data, seen))
        torch.manual_seed(step)
        alone.zero_grad()
        closure_of(plain, *data)()
        alone.step()
    assert len(seen) == 5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(("base", "options"), BASES)
def test_state_dict_goes_on_bit_for_bit(base, options, tmp_path):
    """Through a file, and with the momentum, which davda54's and pytorch_optimizer's lose."""
    model = net()
    sam = SAM(model.parameters(), base, rho=0.2, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sam, 8)
    for step in range(4):
        sam.step(closure_of(model, *batch(seed=step)))
        schedule.step()
    resumed = copy.deepcopy(model)
    torch.save([sam.state_dict(), schedule.state_dict()], tmp_path / "state")
    saved, plan = torch.load(tmp_path / "state", weights_only=True)
    again = SAM(resumed.parameters(), base, rho=0.9, **{**options, "lr": 7.0})
    again_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(again, 8)
    again.load_state_dict(saved)
    again_schedule.load_state_dict(plan)
    assert again.param_groups is again.base.param_groups
    assert again.param_groups[0]["rho"] == 0.2
    for step in range(4, 8):
        for net_, optimizer, plan_ in ((model, sam, schedule), (resumed, again, again_schedule)):
            optimizer.step(closure_of(net_, *batch(seed=step)))
            plan_.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    assert again.param_groups[0]["lr"] == sam.param_groups[0]["lr"] != options["lr"]


def test_a_plain_optimizers_state_is_taken_up():
    model = net()
    plain = torch.optim.AdamW(model.parameters(), lr=0.02)
    closure_of(model, *batch())()
    plain.step()
    sam = SAM(model.parameters(), torch.optim.AdamW, rho=0.3)
    sam.load_state_dict(plain.state_dict())
    assert sam.param_groups[0]["rho"] == 0.3
    assert sam.param_groups[0]["lr"] == 0.02
    sam.step(closure_of(model, *batch()))
    assert float(next(iter(sam.state.values()))["step"]) == 2


def test_a_group_that_comes_later_trains():
    model = net()
    sam = SAM(model[0].parameters(), torch.optim.SGD, lr=0.1, rho=0.2)
    sam.add_param_group({"params": list(model[-1].parameters()), "rho": 0.1})
    before = values(model)
    sam.step(closure_of(model, *batch()))
    assert all(not torch.equal(before[name], now) for name, now in values(model).items())


# Between the passes


def test_between_the_passes_nothing_is_saved_or_begun():
    model = net()
    sam, closure = SAM(model.parameters(), torch.optim.SGD, lr=0.1), closure_of(model, *batch())
    with pytest.raises(UnsupportedError, match="first_step"):
        sam.second_step()
    before = values(model)
    closure()
    state = sam.state_dict()
    sam.first_step()
    for call in (sam.state_dict, lambda: sam.load_state_dict(state), sam.first_step):
        with pytest.raises(UnsupportedError, match=r"w \+ e"):
            call()
    sam.restore()
    assert all(torch.equal(before[name], now) for name, now in values(model).items())
    with pytest.raises(InputError, match="closure"):
        sam.step()


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_closure_that_raises_leaves_everything_as_it_was(fails_at):
    model = net(norm=True).train()
    sam = SAM(model.parameters(), torch.optim.AdamW, rho=0.5, lr=0.1, model=model)
    calls, after_first = [], {}
    good = closure_of(model, *batch())

    def closure():
        calls.append(1)
        loss = good()
        if len(calls) == 1:
            after_first.update(values(model))
        if len(calls) == fails_at:
            raise ValueError("out of memory, say")
        return loss

    with pytest.raises(ValueError, match="out of memory"):
        sam.step(closure)
    assert all(torch.equal(after_first[name], now) for name, now in values(model).items())
    assert not sam.state
    assert model.training
    with pytest.raises(InputError, match="closure"):
        sam.step()
    sam.step(good)
    assert not torch.equal(model[0].weight, after_first["0.weight"])


def test_weights_come_back_bit_for_bit_and_keep_their_storage():
    model = net()
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.7, lr=0.0)
    before, storage = values(model), [weight.data_ptr() for weight in model.parameters()]
    for step in range(20):
        sam.step(closure_of(model, *batch(seed=step)))
    assert all(torch.equal(before[name], now) for name, now in values(model).items())
    assert storage == [weight.data_ptr() for weight in model.parameters()]


def test_a_gradient_in_one_pass_only_leaves_no_drift():
    a, b = (nn.Parameter(torch.tensor([value])) for value in (0.3, 0.7))
    sam, calls = SAM([a, b], torch.optim.SGD, rho=0.1, lr=0.0), []

    def closure():
        calls.append(1)
        loss = (a if len(calls) % 2 else b).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        sam.step(closure)
    assert (a.item(), b.item()) == (torch.tensor(0.3).item(), torch.tensor(0.7).item())


def test_the_first_gradient_is_let_go_before_the_second_is_made():
    """So that a step needs one copy of what moves, and no more."""
    model, first = net(), []
    good = closure_of(model, *batch())

    def closure():
        assert all(reference() is None for reference in first)
        loss = good()
        first[:] = [weakref.ref(weight.grad) for weight in model.parameters()]
        return loss

    SAM(model.parameters(), torch.optim.SGD, lr=0.1).step(closure)
    assert len(first) == 4


# Groups, micro-batches, mixed precision, clipping


def test_groups_have_a_radius_of_their_own_and_one_norm():
    a, b, c = (nn.Parameter(torch.tensor([1.0])) for _ in range(3))
    seen = []

    def closure():
        seen.append([a.item(), b.item(), c.item()])
        loss = (3 * a + 4 * b + 12 * c).sum()
        loss.backward()
        return loss

    groups = [{"params": [a]}, {"params": [b], "rho": 2.6}, {"params": [c], "rho": 0.0}]
    SAM(groups, torch.optim.SGD, rho=1.3, lr=0.1).step(closure)
    assert seen[1] == pytest.approx([1 + 1.3 * 3 / 13, 1 + 2.6 * 4 / 13, 1.0])


def test_micro_batches_are_the_batch():
    whole, parts = net(torch.float64), net(torch.float64)
    inputs, labels = batch(12, torch.float64)

    def accumulated():
        total = 0.0
        for rows in (slice(0, 5), slice(5, 12)):
            loss = nn.functional.cross_entropy(parts(inputs[rows]), labels[rows], reduction="sum") / 12
            loss.backward()
            total += loss.detach()
        return total

    first, second = (SAM(net_.parameters(), torch.optim.AdamW, rho=0.2, lr=0.01) for net_ in (whole, parts))
    for _ in range(3):
        assert float(first.step(closure_of(whole, inputs, labels))) == pytest.approx(float(second.step(accumulated)))
    for mine, its in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)


def scaled(model, scaler, data, spoiled=(), dtype=torch.bfloat16):
    """A closure under autocast whose gradient overflows at the calls in `spoiled`."""
    calls = []

    def closure():
        calls.append(1)
        with torch.autocast("cpu", dtype=dtype):
            loss = nn.functional.cross_entropy(model(data[0]).float(), data[1])
        scaler.scale(loss * (math.inf if len(calls) in spoiled else 1.0)).backward()
        return loss

    return closure


def test_autocast_and_scaler_change_nothing_but_the_scale():
    models = [net() for _ in range(2)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=enabled) for enabled in (True, False)]
    for model, scaler in zip(models, scalers, strict=True):
        sam = SAM(model.parameters(), torch.optim.AdamW, rho=0.3, lr=0.01, max_grad_norm=0.1)
        for step in range(3):
            sam.step(scaled(model, scaler, batch(seed=step)), scaler)
            scaler.update()
    for mine, its in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)
    start = net()
    assert not torch.equal(models[0][0].weight, start[0].weight)


def test_inside_an_enclosing_autocast_the_second_pass_sees_the_moved_weights():
    models, losses = [net() for _ in range(2)], [[], []]
    for number, model in enumerate(models):
        data, sam = batch(), SAM(model.parameters(), torch.optim.SGD, rho=1.0, lr=0.1)

        def closure(model=model, data=data, number=number):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=number == 0):
                loss = nn.functional.cross_entropy(model(data[0]).float(), data[1])
            loss.backward()
            losses[number].append(float(loss.detach()))
            return loss

        with torch.autocast("cpu", dtype=torch.bfloat16):
            sam.step(closure)
    assert losses[0][1] > losses[0][0] + 0.1
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("spoiled", [1, 2])
@pytest.mark.parametrize("scaling", [True, False])
def test_a_step_that_is_not_finite_at_either_point_is_skipped(spoiled, scaling):
    model = net(norm=True).train()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaling)
    sam = SAM(model.parameters(), torch.optim.AdamW, rho=0.3, lr=0.1, model=model)
    weights = [weight.detach().clone() for weight in model.parameters()]
    sam.step(scaled(model, scaler, batch(), spoiled=(spoiled,)), scaler if scaling else None)
    scaler.update()
    assert sam.skipped == 1
    assert not sam.state
    assert all(torch.equal(before, now) for before, now in zip(weights, model.parameters(), strict=True))
    assert scaler.get_scale() == (512.0 if scaling else 1.0), "one update, which halves the scale"
    sam.step(scaled(model, scaler, batch()), scaler if scaling else None)
    scaler.update()
    assert sam.skipped == 1
    assert all(
        not torch.equal(before, now) for before, now in zip(weights[4:], list(model.parameters())[4:], strict=True)
    )


def test_a_gradient_of_zero_moves_nothing():
    w = nn.Parameter(torch.zeros(2))
    SAM([w], torch.optim.SGD, rho=0.5, lr=0.1).step(lambda: (loss := bowl(w), loss.backward())[0])
    assert w.tolist() == [0.0, 0.0]


def test_clipping_is_of_the_second_gradient():
    w, seen = nn.Parameter(torch.tensor([1.0, 1.0])), []

    def closure():
        seen.append(w.tolist())
        loss = bowl(w)
        loss.backward()
        return loss

    SAM([w], torch.optim.SGD, rho=0.5, lr=0.1, max_grad_norm=1.0).step(closure)
    assert seen[1] == pytest.approx([1.12127, 1.48507], abs=1e-5)
    assert w.grad.tolist() == pytest.approx([1.12127 / 6.04518, 5.94029 / 6.04518], abs=1e-4)


# Layers that keep something


def test_running_statistics_are_those_of_the_first_pass():
    model, once = net(norm=True).train(), net(norm=True).train()
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.0, model=model)
    for step in range(3):
        sam.step(closure_of(model, *batch(seed=step)))
        once(batch(seed=step)[0])
    assert all(torch.equal(value, values(once)[name]) for name, value in values(model).items())
    assert int(model[1].num_batches_tracked) == 3
    blind = net(norm=True).train()
    SAM(blind.parameters(), torch.optim.SGD, lr=0.0).step(closure_of(blind, *batch()))
    assert int(blind[1].num_batches_tracked) == 2, "without the model it cannot know, as the docstring says"


@pytest.mark.parametrize("same_masks", [True, False])
def test_masks_of_dropout(same_masks):
    model, masks = net(dropout=0.5), []
    model[2].register_forward_hook(lambda _, __, output: masks.append(output == 0))
    sam = SAM(model.parameters(), torch.optim.SGD, rho=1e-3, lr=0.1, same_masks=same_masks)
    torch.manual_seed(0)
    sam.step(closure_of(model, *batch()))
    assert torch.equal(masks[0], masks[1]) == same_masks
    sam.step(closure_of(model, *batch()))
    assert not torch.equal(masks[2], masks[1]), "the next step draws on"


def test_lora_alone_moves(tiny_llama, lora, make_batch, mean_loss):
    model, given = lora(tiny_llama()), make_batch(6)
    before, losses = values(model), []
    sam = SAM(model.parameters(), torch.optim.AdamW, rho=0.3, lr=0.01, model=model)

    def closure():
        loss = mean_loss(model, given)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    sam.step(closure)
    assert losses[1] > losses[0] + 1e-3
    for name, now in values(model).items():
        assert torch.equal(before[name], now) != ("lora" in name), name


def test_compiled_models_see_the_moved_weights():
    model, plain = net(), net()
    compiled = torch.compile(model, backend="aot_eager")
    data = batch()
    first = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    second = SAM(plain.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    for _ in range(2):
        first.step(closure_of(compiled, *data))
        second.step(closure_of(plain, *data))
    for mine, its in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("rho", {"rho": -0.1}),
        ("rho", {"rho": math.nan}),
        ("eta", {"eta": -1.0}),
        ("perturbation", {"perturbation": "local"}),
        ("max_grad_norm", {"max_grad_norm": 0.0}),
    ],
)
def test_values_out_of_range(field, options):
    with pytest.raises(InputError, match=field):
        SAM(net().parameters(), torch.optim.SGD, lr=0.1, **options)


def test_a_group_out_of_range():
    with pytest.raises(InputError, match="rho"):
        SAM([{"params": net().parameters(), "rho": -1.0}], torch.optim.SGD, lr=0.1)


def test_sixteen_bit_weights_are_warned_of():
    with pytest.warns(UserWarning, match="float32"):
        SAM(net(torch.bfloat16).parameters(), torch.optim.SGD, lr=0.1)
