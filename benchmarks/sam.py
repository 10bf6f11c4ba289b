"""A SAM step against the peers', and a cheaper one against the base optimizer's, in time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import subject
from benchmarks.measure import Row, ratio
from benchmarks.memory import Work, peak
from remanent.core.batch import Batch, Encoded, collate
from remanent.core.scores import answer_scores
from remanent.optim import SAM

_OPTIONS: dict[str, Any] = {"rho": 0.05, "lr": 0.0, "fused": True}


def rows(model: nn.Module, tiny: bool, records: list[Encoded], runs: int) -> list[Row]:
    """Time against each SAM that is there, time of an ascent on a quarter of the batch, and memory."""
    closure = _closure(model, collate(records, range(4), 0))
    larger, part = (_closure(model, collate(records, range(count), 0)) for count in (16, 4))
    ours = SAM(model.parameters(), torch.optim.AdamW, **_OPTIONS)
    found = [
        ratio("SAM step, time", lambda: ours.step(closure), partial(_their_step, peer, closure), 1.03, name, runs)
        for name, peer in _peers(list(model.parameters())).items()
    ]
    alone = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def base() -> None:
        alone.zero_grad()
        larger()
        alone.step()

    name = "SAM step on 16 records, ascent on 4 of them, time"
    found.append(ratio(name, lambda: ours.step(larger, ascent=part), base, 1.4, "AdamW's step on 16", runs))
    model.zero_grad()
    return [*found, _memory(model, tiny)]


def _their_step(peer: Any, closure: Callable[[], Tensor]) -> None:
    peer.zero_grad()
    closure()
    peer.first_step(zero_grad=True)
    closure()
    peer.second_step()


def _memory(model: nn.Module, tiny: bool) -> Row:
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    of_sam, alone = (peak("benchmarks.sam:step", tiny=tiny, sam=sam).memory for sam in (True, False))
    more = (of_sam - alone) / size
    # 1.0 and the allocator's slack
    return Row("SAM step, memory beyond AdamW's step", more, more, more, 1.25, "the bytes that move")


def step(tiny: bool, sam: bool) -> Work:
    """A job: two steps of SAM, or of AdamW alone."""
    model = subject.model(tiny)
    closure = _closure(model, collate(subject.records(model, 4), range(4), 0))
    if sam:
        ours = SAM(model.parameters(), torch.optim.AdamW, **_OPTIONS)
        return lambda: [float(ours.step(closure)) for _ in range(2)]
    base = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def alone() -> None:
        for _ in range(2):
            base.zero_grad()
            closure()
            base.step()

    return alone


def _closure(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loss: Tensor = -answer_scores(model, batch).log_probs.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return closure


def _peers(parameters: list[Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {"the usual SAM step, written out": _WrittenOut(parameters)}
    try:
        from pytorch_optimizer import SAM as Theirs
    except ImportError:
        return found  # `make bench` has it
    return {**found, "pytorch_optimizer's SAM": Theirs(parameters, torch.optim.AdamW, **_OPTIONS)}


class _WrittenOut:
    """Norm of norms, a clone of each weight, data swapped back."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.base = torch.optim.AdamW(self.parameters, lr=0.0, fused=True)
        self.kept: list[Tensor] = []

    def zero_grad(self) -> None:
        self.base.zero_grad()

    @torch.no_grad()
    def first_step(self, zero_grad: bool) -> None:
        moved = [weight for weight in self.parameters if weight.grad is not None]
        length = torch.stack([weight.grad.norm() for weight in moved]).norm()  # type: ignore[union-attr]
        scale = _OPTIONS["rho"] / (length + 1e-12)
        self.kept = [weight.data.clone() for weight in self.parameters]
        for weight in moved:
            weight.add_(weight.grad * scale)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for weight, before in zip(self.parameters, self.kept, strict=True):
            weight.data = before
        self.base.step()
