"""Run by two processes on gloo: TRAM when each has half of a batch, and SAF when records move between them.

Arguments: a folder, into which each process writes its results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from remanent.optim import SAF, TRAM, InitialWeights, TRAMFisher


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def logits_of_epoch(epoch):
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(epoch))


def split(epoch, rank):
    """The records that a process has in an epoch: others each time, and not as many."""
    order = torch.randperm(10, generator=torch.Generator().manual_seed(100 + epoch))
    return order[:4] if rank == 0 else order[4:]


def main(folder):
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    assert world == 2
    results = {}
    for name in ("replica", "global", "fisher"):
        model = accelerator.prepare(net())
        options = {"model": model, "lr": 0.1, "momentum": 0.9}
        if name == "fisher":
            optimizer = TRAMFisher(model.parameters(), torch.optim.SGD, seed=rank, **options)
        else:
            distance = InitialWeights(model)
            optimizer = TRAM(
                model.parameters(), torch.optim.SGD, distance=distance, scale=20.0, perturbation=name, **options
            )
        for step in range(4):
            inputs, labels = (part[rank::world] for part in batch(step))

            def closure(model=model, inputs=inputs, labels=labels):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                return loss

            optimizer.step(closure)
        for key, weight in accelerator.unwrap_model(model).named_parameters():
            results[f"{name}/{key}"] = weight.detach().clone()
        results[f"own/{name}"] = torch.tensor(getattr(optimizer, "radius", 0.0))
    saf = SAF(10, 3, back=1, start=1, weight=1.0)
    for epoch in range(3):
        index = split(epoch, rank)
        term = saf(logits_of_epoch(epoch)[index], index, epoch)
    results["own/saf"] = term
    results["saf/logits"], results["saf/epochs"] = saf.state_dict().values()
    save_file(results, Path(folder) / f"rank{rank}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
