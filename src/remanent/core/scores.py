"""How probable a model finds the scored tokens of a batch: one forward pass, shared by losses and audits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.model_inputs import logits_of, one_pass, takes
from remanent.core.modes import evaluating
from remanent.core.processes import added_up, process
from remanent.core.weights import sharded_on


@dataclass(frozen=True)
class AnswerScores:
    """The scored tokens of a batch, in order of records.

    Args:
        log_probs: float32, (tokens,): log-probability of each scored token given what precedes it, in nats.
        rows: int64, (tokens,): the row of the batch that each token belongs to.
        hits: bool, (tokens,): whether it was the most likely token.
        distribution: float32, (tokens, vocabulary): log-probability of every token at each scored position.
        records: number of records in the batch.
    """

    log_probs: Tensor
    rows: Tensor
    hits: Tensor
    distribution: Tensor
    records: int

    def per_record(self, values: Tensor) -> Tensor:
        """Sums of a per-token value over each record: float32, (records,)."""
        zeros = torch.zeros(self.records, dtype=values.dtype, device=values.device)
        return zeros.index_add(0, self.rows, values)

    @property
    def nll(self) -> Tensor:
        """Summed NLL of each record, in nats: (records,)."""
        return self.per_record(-self.log_probs)

    @property
    def counts(self) -> Tensor:
        """Number of scored tokens of each record: float32, (records,)."""
        return self.per_record(torch.ones_like(self.log_probs))


def answer_scores(model: nn.Module, batch: Batch) -> AnswerScores:
    """Score a batch's labelled tokens. Logits are made only from the first scored token on, softmax is float32.

    Args:
        model: a causal language model whose output has `.logits`, or is the logits: (records, tokens, vocabulary).
        batch: on the model's device.
    """
    scored = batch.labels != IGNORED
    scored[:, 0] = False
    columns = scored.any(dim=0).nonzero()[:, 0]
    if columns.numel() == 0:
        empty = torch.zeros(0, device=batch.labels.device)
        return AnswerScores(empty, empty.long(), empty.bool(), empty[:, None], len(batch))
    # The label at position t is predicted at t - 1.
    before = torch.arange(int(columns[0]) - 1, int(columns[-1]), device=batch.labels.device)
    if takes(model, "logits_to_keep"):
        logits = one_pass(model, batch.input_ids, batch.attention_mask, logits_to_keep=before).logits
    else:
        logits = logits_of(one_pass(model, batch.input_ids, batch.attention_mask))[:, before]
    scored = scored[:, before + 1]
    logits = logits[scored].float()
    targets = batch.labels[:, before + 1][scored]
    # The backward pass keeps the log-softmax anyway, so that handing it out costs no memory.
    distribution = functional.log_softmax(logits, dim=-1)
    log_probs = distribution.gather(1, targets[:, None])[:, 0]
    with torch.no_grad():
        hits = distribution.argmax(dim=-1) == targets
    return AnswerScores(log_probs, scored.nonzero()[:, 0], hits, distribution, len(batch))


@dataclass(frozen=True)
class RecordScores:
    """Scores of a whole set, one entry per record, on the CPU: float64 NLL sums in nats, counts, hits."""

    nll: Tensor
    tokens: Tensor
    hits: Tensor

    @property
    def mean_nll(self) -> Tensor:
        """Mean NLL per scored token of each record: (records,)."""
        return self.nll / self.tokens


@torch.no_grad()
def score_records(
    model: nn.Module,
    encoded: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
    on_batch: Callable[[int], None] | None = None,
    shared: bool = False,
) -> RecordScores:
    """Score every record of a set, in eval mode, longest first so that batches hold records of like length.

    Args:
        model: the model; its mode is given back.
        encoded: the records.
        pad_id: token that fills short rows.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic; None computes in the weights' dtype.
        on_batch: called after each batch with the number of its records.
        shared: the processes of torch.distributed share the batches out, and each gets the scores of all records. A
            batch is what it is in one process, so that the scores are too, bit for bit. Every process must call, with
            the same records. Of a sharded model, whose shards meet at each pass, every process scores everything.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].input_ids), index))
    found = torch.zeros(3, len(encoded), dtype=torch.float64)
    shared = shared and not any(sharded_on(parameter) for parameter in model.parameters())
    first, stride = process() if shared else (0, 1)
    # One autocast round all batches, so that each weight is cast once.
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None), evaluating(model):
        for start in range(first * batch_size, len(order), stride * batch_size):
            indices = order[start : start + batch_size]
            scores = answer_scores(model, collate(encoded, indices, pad_id).to(device))
            of_each = torch.stack([scores.nll, scores.counts, scores.per_record(scores.hits.float())])
            found[:, indices] = of_each.double().cpu()
            if on_batch is not None:
                on_batch(len(indices))
    # A record is scored by one process and 0 in the others: nothing is rounded. On the device, as some need it there.
    return RecordScores(*(added_up(found.to(device)).cpu() if stride > 1 else found))
