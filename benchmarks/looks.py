"""Looks at rounded weights, as an audit makes them: time and memory."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks import subject
from benchmarks.measure import Row, ratio
from benchmarks.memory import Work, peak
from remanent.core.batch import Encoded, collate
from remanent.core.displacement import Displacement, Here, Rounding
from remanent.core.scores import answer_scores, score_records
from remanent.core.weights import Weights

PRECISIONS = ("int8", "int4-row", "int4-g32", "nf4", "bf16")


def time_rows(model: nn.Module, records: list[Encoded], runs: int) -> list[Row]:
    """Five precisions against as many evaluations without rounding."""

    def at(points: list[Displacement], layer_by_layer: bool = False) -> None:
        for point in points:
            with point.at(model, layer_by_layer=layer_by_layer):
                score_records(model, records, pad_id=0, batch_size=32)

    rounded: list[Displacement] = [Rounding(name) for name in PRECISIONS]
    plain: list[Displacement] = [Here()] * len(PRECISIONS)
    peer = "five evaluations of the same records without rounding"
    return [
        ratio("rounding audit at 5 precisions, time", lambda: at(rounded), lambda: at(plain), 1.25, peer, runs),
        ratio(
            "the same, layer by layer, time", lambda: at(rounded, True), lambda: at(plain), 1.6, peer, max(1, runs // 2)
        ),
    ]


def memory_rows(tiny: bool) -> list[Row]:
    """What a look adds to the peak of a process that does all but the look."""
    moves, largest = sizes(subject.model(tiny))
    whole = (_peak(tiny, look="whole") - _peak(tiny)) / moves
    layered = (_peak(tiny, look="layers", forward=True) - _peak(tiny, forward=True)) / largest
    return [
        Row("look at int4-row, extra memory", whole, whole, whole, 1.05, "the bytes that move"),
        Row("the same, layer by layer, beyond the forward's own", layered, layered, layered, 4.0, "the largest layer"),
    ]


def sizes(model: nn.Module) -> tuple[int, int]:
    """Bytes of all weights that the look moves, and of the largest of them."""
    moving = Rounding("int4-row").moving(Weights.of(model))
    each = [tensor.numel() * tensor.element_size() for tensor in moving.values()]
    return sum(each), max(each)


def look(tiny: bool, look: str = "none", forward: bool = False, copies: int = 0) -> Work:
    """A job: one look at a rounded model.

    Args:
        tiny: which model.
        look: "none", "whole" or "layers".
        forward: whether a record is scored.
        copies: how many copies of what moves are kept beside: what a look that wastes memory would do.
    """
    model = subject.model(tiny)
    batch = collate(subject.records(model, 1), [0], 0)

    @torch.no_grad()
    def work() -> None:
        point = Here() if look == "none" else Rounding("int4-row")
        with point.at(model, layer_by_layer=look == "layers"):
            moving = Rounding("int4-row").moving(Weights.of(model))
            kept = [tensor.clone() for tensor in moving.values() for _ in range(copies)]
            if forward:
                answer_scores(model, batch)
            del kept

    # What runs for the first time brings its code into memory, which no look costs again.
    with torch.no_grad(), Rounding("int4-row").at(nn.Linear(8, 8)):
        answer_scores(model, batch)
    return work


def _peak(tiny: bool, **options: object) -> int:
    return peak("benchmarks.looks:look", tiny=tiny, **options).memory
