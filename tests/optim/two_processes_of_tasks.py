"""Run by two processes on gloo: optimizers for several tasks when each has half of a batch.

Arguments: a folder, into which each process writes its results, and the process's number.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import torch
from multi_task_cases import Shared, data, groups
from safetensors.torch import save_file
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from remanent.core.gradient_rules import LinearScalarization, PCGrad
from remanent.errors import InputError
from remanent.optim import FMTL, SAMO

STEPS = 3
KINDS = {"fmtl": FMTL, "samo": SAMO, "samo-shared": lambda *a, **o: SAMO(*a, samples=2, shared_draws=True, **o)}
# Gradients are added up as they come.
KINDS["fmtl-sum"] = lambda parameters, base, rule, **o: FMTL(parameters, base, LinearScalarization(), **o)
KINDS["samo-sum"] = lambda parameters, base, rule, **o: SAMO(parameters, base, LinearScalarization(), **o)
# Optimizer; a closure for each task or one for all; whether it calls the wrapper or the model's parts.
CASES = list(product(KINDS, ("apart", "joint"), ("wrapper", "parts")))


class Net(Shared):
    """Its forward is one task's, or all tasks'."""

    def forward(self, inputs, task=None):
        features = torch.tanh(self.trunk(inputs))
        return (
            {name: head(features) for name, head in self.heads.items()} if task is None else self.heads[task](features)
        )


def net():
    torch.manual_seed(0)
    return Net().double()


def optimizer_of(kind, model, wrapper, rho=0.2, **options):
    return KINDS[kind](groups(model), torch.optim.SGD, PCGrad(), rho=rho, lr=0.2, model=wrapper, **options)


def batch(step, rows):
    inputs, labels = data(seed=step, dtype=torch.float64)
    return inputs[rows], {task: of_task[rows] for task, of_task in labels.items()}


def closures(how, asked, inputs, labels):
    def loss(task, logits):
        return nn.functional.cross_entropy(logits, labels[task])

    if how == "apart":
        return {task: lambda task=task: loss(task, asked(inputs, task)) for task in labels}
    return lambda: {task: loss(task, logits) for task, logits in asked(inputs).items()}


def trained(kind, how, model, wrapper, asked, rows):
    optimizer = optimizer_of(kind, model, wrapper)
    for step in range(STEPS):
        optimizer.step(closures(how, asked, *batch(step, rows)))
    return {name: weight.detach() for name, weight in model.named_parameters()}


def main(folder, rank):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    mine = slice(rank, None, 2)
    for kind, how, called in CASES:
        model = net()
        wrapper = DistributedDataParallel(model)
        found = trained(kind, how, model, wrapper, wrapper if called == "wrapper" else model, mine)
        results.update({f"{kind}/{how}/{called}/{name}": weight for name, weight in found.items()})

    def refusal(model, given, made, **options):
        try:
            optimizer_of("fmtl", model, given, **options).step(made)
        except InputError as error:
            return torch.tensor([["closures", "model"].index(error.field)])

    model = net()
    wrapper = DistributedDataParallel(model)
    whole = closures("apart", model, *batch(0, mine))
    reversed_here = dict(reversed(whole.items())) if rank else whole
    results["refused/order"] = refusal(model, wrapper, reversed_here)
    results["refused/seed"] = refusal(model, wrapper, whole, seed=rank)
    results["refused/unwrapped"] = refusal(model, model, whole)
    leaking = {"a": lambda: whole["a"]() + (whole["b"]() if rank else 0.0), "b": whole["b"]}
    try:
        optimizer_of("fmtl", model, wrapper).step(leaking)
    except InputError as error:
        results["refused/another head"] = torch.tensor(int(error.field == "closures['a']"))
    results.update({f"refused/after/{name}": weight.detach().clone() for name, weight in model.named_parameters()})

    # A head that only one process has records of: neither waits for ever.
    few = {"a": whole["a"], "b": whole["b"] if rank == 0 else lambda: model.trunk(batch(0, mine)[0]).square().mean()}
    optimizer_of("fmtl", model, wrapper, rho=0.0).step(few)
    results.update({f"few/{name}": weight.detach() for name, weight in model.named_parameters()})
    save_file({name: value.contiguous() for name, value in results.items()}, folder / f"rank{rank}.safetensors")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
