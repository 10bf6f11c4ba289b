"""The pull of ten past tasks against one quadratic for each of them."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.measure import Row, ratio
from remanent.continual.ewc import Consolidation
from remanent.core.weights import Weights

TASKS = 10


def row(runs: int) -> Row:
    """Penalty and gradient of an MLP of 784-512-512-10 at ten tasks; the peer is Avalanche's separate mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    weights, pull, tasks = Weights.of(model), Consolidation(1.0), []
    for _ in range(TASKS):
        importance = {name: torch.rand_like(weight) for name, weight in weights.items()}
        anchor = {name: torch.randn_like(weight) for name, weight in weights.items()}
        tasks.append((importance, anchor))
        pull.fold({name: value.clone() for name, value in importance.items()}, anchor)

    def separate() -> None:
        """As its EWCPlugin's before_backward, which adds to a loss that is then passed back."""
        penalty = torch.tensor(0).float()
        for importance, anchor in tasks:
            for name, weight in weights.items():
                penalty += (importance[name] * (weight - anchor[name]).pow(2)).sum()
        penalty.backward()  # type: ignore[no-untyped-call]

    def ours() -> None:
        pull.add_gradient(weights)

    model.zero_grad()
    return ratio("pull of 10 past tasks, time", ours, separate, 0.1, "avalanche's separate mode, written out", runs)
