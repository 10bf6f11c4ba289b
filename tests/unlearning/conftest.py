from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from remanent.core.batch import Batch
from remanent.core.scores import AnswerScores


@pytest.fixture
def answers() -> Callable[..., tuple[Batch, Tensor]]:
    """A batch whose records have answers of given token NLLs (nats), and the NLLs, which take a gradient."""

    def make(*records: list[float], reference: list[float] | None = None) -> tuple[Batch, Tensor]:
        longest = max(map(len, records))
        labels = torch.full((len(records), longest + 1), -100)
        for row, values in enumerate(records):
            labels[row, 1 : 1 + len(values)] = 5
        ids = torch.ones_like(labels)
        given = None if reference is None else torch.tensor(reference)
        nll = torch.tensor([value for values in records for value in values], requires_grad=True)
        rows = torch.tensor([row for row, values in enumerate(records) for _ in values])
        batch = Batch(ids, ids, labels, torch.arange(len(records)), given)
        return batch, SimpleNamespace(
            nll=nll, scores=AnswerScores(-nll, rows, rows > 0, torch.zeros(len(nll), 1), len(records))
        )

    return make


@pytest.fixture
def batches(make_batch: Callable[..., Batch]) -> dict[str, Batch]:
    """Batches to forget, with their NLL under a reference, and to keep."""
    return {
        "forget": replace(make_batch(3, seed=1), reference=torch.tensor([5.0, 9.0, 2.0])),
        "retain": make_batch(4, seed=2),
    }


@pytest.fixture
def taken() -> Callable[..., dict[str, Tensor]]:
    """An objective's losses of batches made by `answers`, divided by what each term is a mean over."""

    def take(objective, **given):
        batches = {role: batch for role, (batch, _) in given.items()}
        scores = {id(batch): known.scores for batch, known in given.values()}
        sums = objective.losses(batches, lambda batch: scores[id(batch)])
        return {name: value / objective.counted(name, batches) for name, value in sums.items()}

    return take


@pytest.fixture
def predicting() -> Callable[..., tuple[Batch, Tensor, Callable[[Batch], AnswerScores]]]:
    """A batch of given targets, the logits that predict them, which take a gradient, and what a Predict would say."""

    def make(targets: list[list[int]], logits: list[list[float]]) -> tuple[Batch, Tensor, Callable[..., AnswerScores]]:
        longest = max(map(len, targets))
        labels = torch.full((len(targets), longest + 1), -100)
        for row, values in enumerate(targets):
            labels[row, 1 : 1 + len(values)] = torch.tensor(values)
        ids = torch.ones_like(labels)
        given = torch.tensor(logits, requires_grad=True)
        distribution = given.log_softmax(dim=-1)
        rows = torch.tensor([row for row, values in enumerate(targets) for _ in values])
        wanted = torch.tensor([value for values in targets for value in values])
        log_probs = distribution.gather(1, wanted[:, None])[:, 0]
        scores = AnswerScores(log_probs, rows, distribution.argmax(dim=-1) == wanted, distribution, len(targets))
        return Batch(ids, ids, labels, torch.arange(len(targets))), given, lambda batch: scores

    return make
