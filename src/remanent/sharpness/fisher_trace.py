"""The trace of the Fisher information: the mean squared length of a record's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from remanent.core.estimate import Estimate
from remanent.core.importance import SampleLoss, importance
from remanent.sharpness.estimate import over_batches
from remanent.sharpness.surface import LossSurface

_GROUPS = 10


@dataclass(frozen=True)
class FisherTrace:
    """The trace of the Fisher information.

    Args:
        trace: mean over records of their gradients' squared L2 norm, with Student's interval over groups of batches.
        records: how many.
    """

    trace: Estimate
    records: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"measure": "fisher-trace", "trace": self.trace.to_dict(), "records": self.records}


def fisher_trace(
    surface: LossSurface,
    loss: SampleLoss | None = None,
    *,
    on_batch: Callable[[], None] = lambda: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> FisherTrace:
    """Trace of the Fisher information, exactly, from the factors of each layer's gradient.

    Args:
        surface: model, batches, weights and point.
        loss: one loss for each record: `class_nll` and `answer_nll` are of the labels given (the empirical Fisher),
            `sampled_class_nll(generator)` and `sampled_answer_nll(generator)` of labels drawn from the model (the
            Fisher itself). The surface's own by default.
        on_batch: called after each batch.
        on_warning: called with a sentence, such as layers that take a backward pass for each record.
    """
    said: set[str] = set()

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            on_warning(text)

    sums, counts = [], []
    with surface.entered() as weights:
        size = -(-len(surface.batches) // _GROUPS)
        for first in range(0, len(surface.batches), size):
            records = [0]

            def passed(count: int, records: list[int] = records) -> None:
                records[0] += count
                on_batch()

            found = importance(
                surface.model,
                surface.batches[first : first + size],
                loss or surface.loss,
                weights=weights,
                on_batch=passed,
                on_warning=warn,
            )
            sums.append(sum(float(value.double().sum()) for value in found.values()))
            counts.append(records[0])
    return FisherTrace(over_batches(sums, counts), sum(counts))
