"""A step whose forget gradient is projected against the step of the same losses, added up, on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import torch
from torch import nn

from benchmarks.measure import Row, ratio
from remanent.core.batch import Encoded, collate
from remanent.core.episode import Episode
from remanent.core.method import Method
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.unlearning import durable, gu, simnpo

_DIRECTIONS, _MOST = 8, 1.35


def rows(model: nn.Module, records: list[Encoded], runs: int) -> list[Row]:
    """Time of an update of SimNPO on the layers that GU trains, and of durable on all weights."""
    projected = gu.method(directions=_DIRECTIONS).begin(model, Episode("bench", "erase", {}))
    assert projected is not None
    plain = replace(simnpo.method(), select=projected.select)
    summed = durable.method(directions=0)
    return [
        _row("GU step, time", model, records, (projected, plain), "a step of SimNPO with its retain loss", runs),
        _row("durable step, time", model, records, (durable.method(), summed), "the same without directions", runs),
    ]


def _row(name: str, model: nn.Module, records: list[Encoded], pair: tuple[Method, Method], of: str, runs: int) -> Row:
    """The first against the second, once it has seen as many gradients as it keeps."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    weights = pair[0].select.of(Weights.of(model))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    forget = collate(records, range(4), 0).with_reference(torch.full((len(records),), 40.0))
    # Others at each step, so that no direction is there twice.
    retained = cycle([collate(records, range(4 + place, 8 + place), 0) for place in range(_DIRECTIONS)])

    def step(method: Method) -> Callable[[], object]:
        optimizer = torch.optim.AdamW(weights.values(), lr=0.0, fused=True)
        update = Update(model, method, optimizer, steps=1000, max_grad_norm=1.0)
        return lambda: update({"forget": forget, "retain": next(retained)})

    ours, plain = map(step, pair)
    for _ in range(_DIRECTIONS):
        ours()
    found = ratio(name, ours, plain, _MOST, of, runs)
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
        parameter.grad = None
    return found
