"""A model with a trunk that three tasks share and a head each, and closures for it."""

from __future__ import annotations

import torch
from torch import nn

TASKS = ("a", "b", "c")


class Shared(nn.Module):
    """A trunk and a head for each task."""

    def __init__(self, norm=False, dropout=0.0, tasks=TASKS):
        super().__init__()
        layers = [nn.Linear(5, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Dropout(dropout)]
        self.trunk = nn.Sequential(*layers, nn.Linear(8, 6))
        self.heads = nn.ModuleDict({task: nn.Linear(6, 3) for task in tasks})

    def forward(self, inputs, task):
        return self.heads[task](torch.tanh(self.trunk(inputs)))


def net(dtype=torch.float32, seed=0, **options):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Shared(**options).to(dtype)


def groups(model, **of_heads):
    heads = [{"params": list(head.parameters()), "task": task, **of_heads} for task, head in model.heads.items()]
    return [{"params": list(model.trunk.parameters())}, *heads]


def data(seed=1, count=12, dtype=torch.float32, tasks=TASKS):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator).to(dtype)
    return inputs, {task: torch.randint(0, 3, (count,), generator=generator) for task in tasks}


def loss_of(model, task, inputs, labels):
    return nn.functional.cross_entropy(model(inputs, task), labels[task])


def closures_of(model, inputs, labels):
    return {task: lambda task=task: loss_of(model, task, inputs, labels) for task in labels}


def joint_of(model, inputs, labels):
    """All losses of one forward pass through the trunk."""

    def closure():
        features = torch.tanh(model.trunk(inputs))
        return {task: nn.functional.cross_entropy(model.heads[task](features), labels[task]) for task in labels}

    return closure


def values(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)
