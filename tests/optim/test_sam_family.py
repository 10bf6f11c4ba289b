"""What every optimizer of SAM's family must obey."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sam_cases import FAMILY, SGD, batch, closure_of, losses_of, net, step
from torch import nn

from remanent.errors import UnsupportedError
from remanent.optim import ESAM, MSAM

BASES = [(torch.optim.SGD, SGD), (torch.optim.AdamW, {"lr": 0.01})]
family = pytest.mark.parametrize("name", FAMILY)


def weights(model):
    return [weight.detach().clone() for weight in model.parameters()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def spoiler(at):
    """Multiplies a loss by infinity at one of the calls."""
    calls = []

    def spoil():
        calls.append(1)
        return math.inf if len(calls) == at else 1.0

    return spoil


@family
@pytest.mark.parametrize(("base", "options"), BASES)
def test_rho_zero_is_the_base_bit_for_bit(name, base, options):
    model, plain = net(norm=True, dropout=0.3), net(norm=True, dropout=0.3)
    optimizer, alone = FAMILY[name](model, base, rho=0.0, **options), base(plain.parameters(), **options)
    for number in range(4):
        torch.manual_seed(number)
        step(optimizer, model, batch(number))
        torch.manual_seed(number)
        alone.zero_grad()
        if name == "esam":  # the mean that it takes itself
            (losses_of(plain, batch(number))(torch.arange(12)).sum() / 12).backward()
        else:
            closure_of(plain, batch(number))()
        alone.step()
    assert equal(model.parameters(), plain.parameters())
    assert equal(model.buffers(), plain.buffers())


@family
@pytest.mark.parametrize(("base", "options"), BASES)
@pytest.mark.parametrize("stopped", [4, 5])
def test_a_run_goes_on_bit_for_bit(name, base, options, stopped, tmp_path):
    model = net(dropout=0.3)
    optimizer = FAMILY[name](model, base, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    for number in range(stopped):
        torch.manual_seed(number)
        step(optimizer, model, batch(number))
        schedule.step()
    resumed = copy.deepcopy(model)
    torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state")
    saved, plan = torch.load(tmp_path / "state", weights_only=True)
    again = FAMILY[name](resumed, base, **{**options, "lr": 7.0})
    again_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(again, 8)
    again.load_state_dict(saved)
    again_schedule.load_state_dict(plan)
    for number in range(stopped, 8):
        for this, its, when in ((model, optimizer, schedule), (resumed, again, again_schedule)):
            torch.manual_seed(number)
            step(its, this, batch(number))
            when.step()
    assert equal(model.parameters(), resumed.parameters())


@family
def test_a_learning_rate_of_zero_changes_nothing(name):
    model = net()
    optimizer = FAMILY[name](model, torch.optim.SGD, lr=0.0)
    before, storage = weights(model), [weight.data_ptr() for weight in model.parameters()]
    for number in range(7):
        step(optimizer, model, batch(number))
    assert equal(before, model.parameters())
    assert storage == [weight.data_ptr() for weight in model.parameters()]


@family
def test_the_loss_is_that_at_w(name):
    model = net()
    optimizer = FAMILY[name](model, torch.optim.SGD, **SGD)
    for number in range(2 if name == "reuse" else 4):
        data = batch(0 if name == "reuse" else number)
        with torch.no_grad():
            expected = float(nn.functional.cross_entropy(model(data[0]), data[1]))
        here = step(optimizer, model, data)
        if name != "reuse" or number == 0:
            assert float(here) == pytest.approx(expected, rel=1e-5)
        else:
            assert float(here) > expected, "at w + e, where it is climbed without a pass at w"
        assert not here.requires_grad


@family
@pytest.mark.parametrize("at", [1, 2])
def test_a_closure_that_raises_leaves_the_weights(name, at):
    model = net(norm=True)
    optimizer = FAMILY[name](model, torch.optim.AdamW, lr=0.1)
    before, calls = weights(model), []

    def fail():
        calls.append(1)
        if len(calls) == at:
            raise ValueError("out of memory, say")
        return 1.0

    with pytest.raises(ValueError, match="out of memory"):
        step(optimizer, model, batch(0), spoil=fail)
    assert equal(before, model.parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    assert not optimizer.state
    step(optimizer, model, batch(0))
    assert not equal(before, model.parameters())


@family
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("scaling", [True, False])
def test_what_is_not_finite_is_skipped(name, at, scaling):
    model = net(norm=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaling)
    optimizer = FAMILY[name](model, torch.optim.AdamW, lr=0.1)
    before = weights(model)
    step(optimizer, model, batch(0), scaler if scaling else None, spoiler(at), torch.bfloat16)
    scaler.update()
    assert optimizer.skipped == 1
    assert equal(before, model.parameters())
    assert not optimizer.state
    assert scaler.get_scale() == (512.0 if scaling else 1.0)
    for number in range(4):  # the steps that use what was kept, too
        step(optimizer, model, batch(number), scaler if scaling else None, None, torch.bfloat16)
        scaler.update()
    assert optimizer.skipped == 1
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    assert not equal(before, model.parameters())


@family
def test_the_scale_changes_nothing(name):
    ends = []
    for scaling in (True, False):
        model = net()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaling)
        optimizer = FAMILY[name](model, torch.optim.AdamW, lr=0.01, max_grad_norm=0.1)
        for number in range(5):
            step(optimizer, model, batch(number), scaler, None, torch.bfloat16)
            scaler.update()
        ends.append(weights(model))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@family
def test_running_statistics_count_each_record_once(name):
    model = net(norm=True)
    optimizer = FAMILY[name](model, torch.optim.SGD, lr=0.1)
    for number in range(6):
        step(optimizer, model, batch(number))
    assert int(model[1].num_batches_tracked) == (18 if name == "msam" else 6)


@family
def test_clipping_is_of_the_gradient_that_the_base_sees(name):
    model = net()
    optimizer = FAMILY[name](model, torch.optim.SGD, lr=0.0, max_grad_norm=0.01)
    for number in range(3):
        step(optimizer, model, batch(number))
        assert float(torch.cat([w.grad.flatten() for w in model.parameters()]).norm()) == pytest.approx(0.01, rel=1e-4)


@family
def test_compiled_models(name):
    ends = []
    for compiled in (True, False):
        model = net()
        optimizer = FAMILY[name](model, torch.optim.SGD, **SGD)
        run = torch.compile(model, backend="eager") if compiled else model
        for number in range(4):
            step(optimizer, run, batch(number))
        ends.append(weights(model))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@family
def test_frozen_layers_stay(name):
    model = net()
    for weight in model[0].parameters():
        weight.requires_grad_(False)
    optimizer = FAMILY[name](model, torch.optim.SGD, **SGD)
    before = weights(model)
    for number in range(4):
        step(optimizer, model, batch(number))
    assert equal(before[:2], weights(model)[:2])
    assert not any(weight.requires_grad for weight in model[0].parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before[2:], weights(model)[2:], strict=True))


@family
def test_lora_alone_moves(name, tiny_llama, lora, make_batch, mean_loss):
    model, given = lora(tiny_llama()), make_batch(6)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = FAMILY[name](model, torch.optim.AdamW, lr=0.01)

    def closure(rows=None):
        loss = mean_loss(model, given)
        loss.backward()
        return loss

    for _ in range(2):
        if isinstance(optimizer, ESAM):
            optimizer.step(lambda rows: mean_loss(model, given).expand(len(rows)), records=6)
        elif isinstance(optimizer, MSAM):
            optimizer.step(closure, records=6)
        else:
            optimizer.step(closure)
    for key, tensor in model.state_dict().items():
        assert torch.equal(before[key], tensor) != ("lora" in key), key


@family
def test_flat_shards_are_refused_by_name(name):
    model = net()
    model[0].weight._is_flat_param = True
    with pytest.raises(UnsupportedError, match="FSDP1"):
        step(FAMILY[name](model, torch.optim.SGD, lr=0.1), model, batch(0))


@pytest.mark.parametrize("name", [name for name in FAMILY if name not in ("msam", "esam")])
def test_by_hand_is_step(name):
    ends = []
    for by_hand in (True, False):
        model = net()
        optimizer = FAMILY[name](model, torch.optim.SGD, **SGD)
        for number in range(5):
            closure = closure_of(model, batch(number))
            if not by_hand:
                optimizer.step(closure)
                continue
            optimizer.zero_grad()
            closure()
            if optimizer.first_step():
                closure()
            optimizer.second_step()
        ends.append(weights(model))
    assert equal(*ends)


@family
def test_it_learns(name):
    model, losses = net(), []
    optimizer = FAMILY[name](model, torch.optim.SGD, rho=0.05, lr=0.2, momentum=0.9)
    for _ in range(60):
        losses.append(float(step(optimizer, model, batch(0))))
    assert losses[-1] < losses[0] / 4
