"""Two processes, each with half of a batch: a perturbation for each, or one for both; and FSDP2's shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes_of_sam import FAMILY, OPTIONS, SHARDED, STEPS, batch, loss_of, net, passes

from remanent.optim import SAM

PROGRAM = Path(__file__).with_name("two_processes_of_sam.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items()), "the replicas are one model"
    return ranks[0]


def per_replica():
    """e of each half from that half alone; the mean of both gradients there is stepped with."""
    model = net()
    weights = list(model.parameters())
    base = torch.optim.SGD(weights, lr=OPTIONS["lr"], momentum=OPTIONS["momentum"])
    for step in range(STEPS):
        inputs, labels = batch(step)
        total = [torch.zeros_like(weight) for weight in weights]
        for rank in range(2):
            half = inputs[rank::2], labels[rank::2]
            gradients = torch.autograd.grad(loss_of(model, *half), weights)
            length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            there = [w + OPTIONS["rho"] * g / length for w, g in zip(weights, gradients, strict=True)]
            names = [name for name, _ in model.named_parameters()]
            moved = {name: w.detach().requires_grad_() for name, w in zip(names, there, strict=True)}
            output = torch.func.functional_call(model, moved, half[0])
            second = torch.autograd.grad(torch.nn.functional.cross_entropy(output, half[1]), list(moved.values()))
            total = [old + new / 2 for old, new in zip(total, second, strict=True)]
        for weight, gradient in zip(weights, total, strict=True):
            weight.grad = gradient
        base.step()
    return dict(model.named_parameters())


def whole_batch():
    model = net()
    sam = SAM(model.parameters(), torch.optim.SGD, **OPTIONS)
    for step in range(STEPS):
        sam.step(lambda step=step: (value := loss_of(model, *batch(step)), value.backward())[0])
    return dict(model.named_parameters())


@pytest.mark.parametrize(("label", "expected"), [("replica", per_replica), ("global", whole_batch)])
def test_the_weights(results, label, expected):
    for name, weight in expected().items():
        torch.testing.assert_close(results[f"{label}.{name}"], weight.detach(), rtol=0, atol=1e-6)


def test_the_two_perturbations_differ():
    one, other = per_replica(), whole_batch()
    assert max(float((one[name] - other[name]).detach().abs().max()) for name in one) > 1e-3


def test_the_first_pass_does_not_average_unless_it_must(results):
    assert results["replica:averaged"] == STEPS
    assert results["global:averaged"] == 2 * STEPS


def test_what_one_process_cannot_use_all_skip(results):
    assert results["skipped"].tolist() == [1, 1, 4], "skipped once, weights as before, scale halved"


def test_ddp_without_its_model_is_refused(results):
    assert results["refused"] == 1


def replicas(name):
    """Two processes in one: each half's gradient by an optimizer of its own on the same weights, then their mean."""
    model = net()
    weights = list(model.parameters())
    each = [FAMILY[name](weights) for _ in range(2)]
    base = torch.optim.SGD(weights, lr=OPTIONS["lr"], momentum=OPTIONS["momentum"])
    for step in range(STEPS):
        found = []
        for rank, optimizer in enumerate(each):
            passes(optimizer, model, [tensor[rank::2] for tensor in batch(step)])
            found.append([weight.grad.clone() for weight in weights])
            optimizer.param_groups[0]["lr"] = 0.0  # its own step, for its count of them, moves nothing
            optimizer.second_step()
        for weight, one, other in zip(weights, *found, strict=True):
            weight.grad = (one + other) / 2
        base.step()
    return dict(model.named_parameters())


def whole(name):
    model = net()
    optimizer = FAMILY[name](model.parameters())
    for step in range(STEPS):
        passes(optimizer, model, batch(step))
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("name", ["gsam", "msam", "esam", "reuse"])
def test_the_family_for_each_replica(results, name):
    for key, weight in replicas(name).items():
        torch.testing.assert_close(results[f"{name}-replica.{key}"], weight.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gsam", "look", "esam-all"])
def test_the_family_as_one(results, name):
    for key, weight in whole(name).items():
        torch.testing.assert_close(results[f"{name}-global.{key}"], weight.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SHARDED)
def test_the_family_sharded(results, name):
    """As one process does on the whole batch."""
    model = net()
    optimizer = SHARDED[name](model, 1)
    for step in range(STEPS):
        passes(optimizer, model, batch(step))
        optimizer.step()
    for key, weight in model.named_parameters():
        torch.testing.assert_close(results[f"sharded-{name}.{key}"], weight.detach(), rtol=0, atol=1e-6)
    radius = getattr(optimizer, "radius", 0.0)
    # Without noise the distance is 0, but for what rounding leaves of a divergence in float32.
    assert float(results[f"radius-{name}"]) == pytest.approx(radius, rel=1e-3, abs=1e-7)
    assert (radius > 1e-4) == (name in ("tram-initial", "tram-previous"))


def test_shards_without_their_model_are_refused(results):
    assert results["refused-sharded"] == 1


def test_how_often_the_family_averages(results):
    """GSAM and LookSAM's full steps average what they combined, by themselves."""
    counts = {name: int(results[f"{name}-replica:averaged"]) for name in FAMILY}
    assert counts == {"gsam": 0, "look": STEPS // 2, "msam": STEPS, "esam": STEPS, "esam-all": STEPS, "reuse": STEPS}


def test_unequal_micro_batches_are_refused(results):
    assert results["unequal"] == 1
