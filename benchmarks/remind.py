"""The neighbourhood probe against as many plain evaluations of the same records."""

from __future__ import annotations

import numpy as np
from torch import nn

from benchmarks.measure import Row, ratio
from remanent.auditing.remind import RANKS, TokenNeighbours, embeddings, landscapes
from remanent.core.batch import Encoded
from remanent.core.scores import score_records

COUNT = 48


def row(model: nn.Module, records: list[Encoded], runs: int) -> Row:
    """The probe as the audit runs it, its neighbours at hand; all tokens of a question may be replaced."""
    count = len(embeddings(model))
    near = np.stack([(np.arange(count) + rank) % count for rank in RANKS], axis=1)
    table = TokenNeighbours({token: token for token in range(count)}, near)

    def ours() -> None:
        landscapes(model, records, table, COUNT, pad_id=0, batch_size=32)

    def plain() -> None:
        score_records(model, records * COUNT, pad_id=0, batch_size=32)

    return ratio(
        f"REMIND's {COUNT} neighbours, time", ours, plain, 1.1, f"{COUNT} evaluations of the same records", runs
    )
