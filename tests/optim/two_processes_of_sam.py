"""Run by two processes on gloo: what SAM finds when each has half of a batch.

Arguments: a folder, into which each process writes its results.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from remanent.core.weights import fsdp_modules, reshard
from remanent.errors import InputError
from remanent.optim import (
    ASAM,
    ESAM,
    GSAM,
    MSAM,
    SAM,
    TRAM,
    InitialWeights,
    LookSAM,
    NoisedInputs,
    PreviousWeights,
    TRAMFisher,
)

STEPS, OPTIONS = 3, {"rho": 0.4, "lr": 0.1, "momentum": 0.9}


def net(norm=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Linear(8, 3))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def loss_of(model, inputs, labels):
    return nn.functional.cross_entropy(model(inputs), labels)


FAMILY = {
    "gsam": lambda p, **o: GSAM(p, torch.optim.SGD, alpha=0.7, **OPTIONS, **o),
    "look": lambda p, **o: LookSAM(p, torch.optim.SGD, every=2, **OPTIONS, **o),
    "msam": lambda p, **o: MSAM(p, torch.optim.SGD, micro_batch_size=2, **OPTIONS, **o),
    "esam": lambda p, **o: ESAM(p, torch.optim.SGD, beta=0.5, **OPTIONS, **o),
    "esam-all": lambda p, **o: ESAM(p, torch.optim.SGD, beta=0.5, gamma=1.0, **OPTIONS, **o),
    "reuse": lambda p, **o: SAM(p, torch.optim.SGD, every=2, between="reuse", **OPTIONS, **o),
}


def tram(distance, **settings):
    def make(model, count):
        there = distance(model, **settings)
        return TRAM(model.parameters(), torch.optim.SGD, distance=there, scale=30.0, model=model, lr=0.1, momentum=0.9)

    return make


# Given the model and in how many processes; one process and several of FSDP2 step alike.
SHARDED = {
    **{
        name: lambda model, count, name=name: FAMILY[name](model.parameters(), model=model)
        for name in ("gsam", "look", "esam-all", "reuse")
    },
    "sam": lambda model, count: SAM(model.parameters(), torch.optim.SGD, model=model, **OPTIONS),
    "asam": lambda model, count: ASAM(model.named_parameters(), torch.optim.SGD, model=model, **OPTIONS),
    "msam": lambda model, count: MSAM(
        model.parameters(), torch.optim.SGD, micro_batch_size=4 // count, model=model, **OPTIONS
    ),
    "tram-initial": tram(InitialWeights),
    "tram-previous": tram(PreviousWeights),
    "tram-noised": tram(NoisedInputs, sigma=0.0),  # draws of two processes are not those of one
    "tram-fisher": lambda model, count: TRAMFisher(
        model.parameters(), torch.optim.SGD, model=model, sigma=0.0, eta=5.0, **OPTIONS
    ),
}


def passes(optimizer, model, data, backward=lambda loss: loss.backward()):
    """All of a step but the base optimizer's, whatever the optimizer asks for."""

    def closure(rows=slice(None)):
        loss = loss_of(model, data[0][rows], data[1][rows])
        backward(loss)
        return loss

    if isinstance(optimizer, ESAM):

        def losses(rows):
            return nn.functional.cross_entropy(model(data[0][rows]), data[1][rows], reduction="none")

        return optimizer.gradients(losses, records=len(data[0]))
    if isinstance(optimizer, MSAM):
        return optimizer.gradients(closure, records=len(data[0]))
    return optimizer.gradients(closure)


class Counter:
    """Counts how often gradients are averaged over the processes."""

    def __init__(self, model):
        self.count = 0
        model.register_comm_hook(None, self.hook)

    def hook(self, _, bucket):
        self.count += 1
        total = torch.distributed.all_reduce(bucket.buffer() / 2, async_op=True).get_future()
        return total.then(lambda done: done.value()[0])


def main(folder):
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    assert world == 2
    results = {}

    def mine(step):
        return [tensor[rank::world] for tensor in batch(step)]

    for perturbation in ("replica", "global"):
        model = accelerator.prepare(net())
        averaged = Counter(model)
        optimizer = accelerator.prepare(
            SAM(model.parameters(), torch.optim.SGD, model=model, perturbation=perturbation, **OPTIONS)
        )
        for step in range(STEPS):

            def closure(model=model, step=step):
                loss = loss_of(model, *mine(step))
                accelerator.backward(loss)
                return loss

            optimizer.step(closure)
        results[f"{perturbation}:averaged"] = torch.tensor(averaged.count)
        results.update({f"{perturbation}.{name}": w.detach() for name, w in model.module.named_parameters()})

    for name, make in FAMILY.items():
        for perturbation in ("replica", "global") if name in ("gsam", "look", "esam-all") else ("replica",):
            model = accelerator.prepare(net())
            averaged = Counter(model)
            optimizer = accelerator.prepare(make(model.parameters(), model=model, perturbation=perturbation))
            for step in range(STEPS):
                passes(optimizer.optimizer, model, mine(step), accelerator.backward)
                optimizer.optimizer.step()
            results[f"{name}-{perturbation}:averaged"] = torch.tensor(averaged.count)
            results.update({f"{name}-{perturbation}.{key}": w.detach() for key, w in model.module.named_parameters()})

    # More micro-batches in one process than in the other: neither waits for ever.
    optimizer = FAMILY["msam"](model.parameters(), model=model)
    try:
        optimizer.step(lambda rows: loss_of(model, *mine(0)), records=4 + 2 * rank)
    except InputError as error:
        results["unequal"] = torch.tensor(int(error.field == "records"))

    # A gradient that is not finite in one process: both skip, neither waits.
    model = accelerator.prepare(net(norm=True))
    optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, **OPTIONS)
    before = [weight.detach().clone() for weight in model.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loss = loss_of(model, *mine(0)) * (math.inf if rank == 1 else 1.0)
    optimizer.step(lambda: (loss, scaler.scale(loss).backward())[0], scaler)
    scaler.update()
    same = all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    results["skipped"] = torch.tensor([optimizer.skipped, int(same), int(scaler.get_scale())])

    # Without the wrapped model it cannot keep gradients apart, and says so.
    try:
        SAM(model.parameters(), torch.optim.SGD, **OPTIONS).step(lambda: loss)
    except InputError as error:
        results["refused"] = torch.tensor(int(error.field == "model"))

    mesh = init_device_mesh("cpu", (2,))
    for name, make in SHARDED.items():
        model = net()
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = make(model, world)
        for step in range(STEPS):
            passes(optimizer, model, mine(step))
            optimizer.step()
            with torch.no_grad():  # an evaluation leaves the root's weights gathered
                model(mine(step)[0])
        results[f"radius-{name}"] = torch.tensor(getattr(optimizer, "radius", 0.0))
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        reshard(fsdp_modules(model))
        results.update({f"sharded-{name}.{key}": w.full_tensor().detach() for key, w in model.named_parameters()})
    try:
        optimizer = SAM(model.parameters(), torch.optim.SGD, **OPTIONS)
        passes(optimizer, model, mine(0))
    except InputError as error:
        results["refused-sharded"] = torch.tensor(int(error.field == "model"))

    save_file(results, folder / f"rank{rank}.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
