"""TRAM's step against SAM's, and a step with SAF's or MESA's term against the base's, in time and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import subject
from benchmarks.measure import Row, ratio
from benchmarks.memory import Work, peak
from remanent.core.batch import Encoded, collate
from remanent.core.scores import answer_scores
from remanent.optim import MESA, SAF, SAM, TRAM, NoisedInputs, PreviousWeights, TRAMFisher

_RECORDS, _BATCH, _CLASSES = 1024, 128, 100
_OPTIONS: dict[str, Any] = {"lr": 0.0, "fused": True}
_TRAMS: dict[str, Callable[[nn.Module], Any]] = {
    "TRAM, weights before": lambda model: TRAM(
        model.parameters(), torch.optim.AdamW, distance=PreviousWeights(model), **_OPTIONS
    ),
    "TRAM, noised inputs": lambda model: TRAM(
        model.parameters(), torch.optim.AdamW, distance=NoisedInputs(model), **_OPTIONS
    ),
    "TRAM-Fisher": lambda model: TRAMFisher(model.parameters(), torch.optim.AdamW, model=model, **_OPTIONS),
}


def rows(model: nn.Module, tiny: bool, records: list[Encoded], runs: int) -> list[Row]:
    """TRAM on the language model; the terms on an MLP, since SAF keeps logits of every record and class."""
    closure = _closure(model, records)
    sam = SAM(model.parameters(), torch.optim.AdamW, adaptive=True, **_OPTIONS)
    bounds = dict(zip(_TRAMS, (1.35, 1.35, 1.75), strict=True))  # 7 and 9 sixths of SAM's passes
    found = []
    for name, make in _TRAMS.items():
        optimizer = make(model)

        def ours(optimizer: Any = optimizer) -> None:
            optimizer.step(closure)

        found.append(ratio(f"{name}, step, time", ours, lambda: sam.step(closure), bounds[name], "ASAM's step", runs))
    model.zero_grad()
    return [*found, *(_term(name, runs) for name in ("SAF", "MESA")), *_memory(model, tiny)]


def _closure(model: nn.Module, records: list[Encoded]) -> Callable[[], Tensor]:
    batch = collate(records, range(4), 0)

    def closure() -> Tensor:
        loss: Tensor = -answer_scores(model, batch).log_probs.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return closure


def _term(name: str, runs: int) -> Row:
    """Eight steps of an MLP, four layers of 1024, on batches of 128, with and without the term.

    The backward pass to the input is not made, so the fewer layers the less a backward pass costs, and the more the
    teacher's forward pass weighs.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(_RECORDS, 784, generator=generator)
    labels = torch.randint(0, _CLASSES, (_RECORDS,), generator=generator)
    torch.manual_seed(0)
    wide = [layer for _ in range(3) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), *wide, nn.Linear(1024, _CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    saf, mesa, epoch = SAF(_RECORDS, _CLASSES, start=0), MESA(model, 0.99), 0

    def steps(term: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        nonlocal epoch
        epoch += term is not None
        for index in torch.arange(_RECORDS).split(_BATCH):
            optimizer.zero_grad()
            logits = model(inputs[index])
            loss = nn.functional.cross_entropy(logits, labels[index])
            (loss if term is None else loss + term(logits, index)).backward()
            optimizer.step()
            if term is of_mesa:
                mesa.update()

    def of_saf(logits: Tensor, index: Tensor) -> Tensor:
        return saf(logits, index, epoch)

    def of_mesa(logits: Tensor, index: Tensor) -> Tensor:
        return mesa(logits, inputs[index])

    term = of_saf if name == "SAF" else of_mesa
    for _ in range(4):
        steps(term)  # until there are logits of three epochs ago
    bound = 1.1 if name == "SAF" else 1.4
    return ratio(f"{name}'s term, step, time", lambda: steps(term), lambda: steps(None), bound, "SGD's step", runs)


def _memory(model: nn.Module, tiny: bool) -> list[Row]:
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    found = []
    # SAM's copy and the allocator's slack, and the logits; of the weights before a copy more.
    bounds = {"TRAM, weights before": 2.5, "TRAM, noised inputs": 1.5}
    alone = peak("benchmarks.trust_region:step", tiny=tiny, name="").memory
    for name, bound in bounds.items():
        more = (peak("benchmarks.trust_region:step", tiny=tiny, name=name).memory - alone) / size
        found.append(Row(f"{name}, memory beyond AdamW's step", more, more, more, bound, "the bytes that move"))
    return found


def step(tiny: bool, name: str) -> Work:
    """A job: two steps of a TRAM, or of AdamW alone."""
    model = subject.model(tiny)
    closure = _closure(model, subject.records(model, 4))
    if name:
        optimizer = _TRAMS[name](model)
        return lambda: [float(optimizer.step(closure)) for _ in range(2)]
    base = torch.optim.AdamW(model.parameters(), **_OPTIONS)

    def alone() -> None:
        for _ in range(2):
            base.zero_grad()
            closure()
            base.step()

    return alone
