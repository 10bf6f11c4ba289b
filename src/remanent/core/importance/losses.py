"""Losses of single records, whose gradients importances are made of: labels given, drawn from the model, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from remanent.core.batch import IGNORED, Batch
from remanent.core.model_inputs import logits_of, one_pass
from remanent.core.scores import answer_scores

# (model, batch) -> one loss for each record, or for batch-wise importances one for each of whatever is averaged over
SampleLoss = Callable[[nn.Module, Any], Tensor]


def answer_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Summed NLL of each record's answer, in nats: (records,). The empirical Fisher's loss."""
    return answer_scores(model, batch).nll


def mean_answer_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Mean NLL of the scored tokens of each record, in nats per token: (records,)."""
    scores = answer_scores(model, batch)
    return scores.nll / scores.counts


def token_nll(model: nn.Module, batch: Batch) -> Tensor:
    """NLL of each scored token of a batch, in nats: (tokens,). Its mean is the usual training loss."""
    return -answer_scores(model, batch).log_probs


def logits_of_answers(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the scored positions of a batch, from a pass that makes them at every position.

    Returns float32 or float64 logits (tokens, vocabulary), labels (tokens,), and the row of each token (tokens,).
    """
    logits = logits_of(one_pass(model, batch.input_ids, batch.attention_mask))
    scored = batch.labels[:, 1:] != IGNORED
    found = logits[:, :-1][scored]
    found = found if found.dtype == torch.float64 else found.float()
    return found, batch.labels[:, 1:][scored], scored.nonzero()[:, 0]


def positions_nll(model: nn.Module, batch: Batch) -> Tensor:
    """As `answer_nll`, with logits made at every position, as the token-wise importance of tied weights needs them."""
    logits, labels, rows = logits_of_answers(model, batch)
    return _by_record(functional.cross_entropy(logits, labels, reduction="none"), rows, len(batch))


def sampled_answer_nll(generator: Generator) -> SampleLoss:
    """NLL of labels drawn from the model at each scored position, after the record's own tokens: the Fisher's loss.

    Drawn token by token, so that in expectation a record's Fisher is the sum of its tokens'.

    Args:
        generator: on the CPU; draws the labels.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits, _, rows = logits_of_answers(model, batch)
        return _by_record(_drawn_nll(logits, generator), rows, len(batch))

    return loss


def squared_answer_logits(model: nn.Module, batch: Batch) -> Tensor:
    """|f|_2^2 of the logits at each scored position: (tokens,). Needs no labels (LFSSD, MAS)."""
    return logits_of_answers(model, batch)[0].square().sum(dim=-1)


def class_nll(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each sample of a classifier, in nats: (samples,). `batch`: inputs and int64 labels."""
    inputs, labels = batch
    return functional.cross_entropy(logits_of(model(inputs)), labels, reduction="none")


def sampled_class_nll(generator: Generator) -> SampleLoss:
    """NLL of labels drawn from a classifier. `batch`: inputs, or inputs and labels, which are not looked at.

    Args:
        generator: on the CPU; draws the labels.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return _drawn_nll(logits_of(model(_inputs(batch))), generator)

    return loss


def squared_outputs(model: nn.Module, batch: Any) -> Tensor:
    """|f(x)|_2^2 of each sample of a classifier: (samples,). `batch`: inputs, or inputs and labels."""
    return logits_of(model(_inputs(batch))).square().sum(dim=-1)


def _inputs(batch: Any) -> Any:
    return batch if isinstance(batch, Tensor) else batch[0]


def _drawn_nll(logits: Tensor, generator: Generator) -> Tensor:
    with torch.no_grad():
        labels = torch.multinomial(logits.softmax(dim=-1).cpu(), 1, generator=generator)[:, 0].to(logits.device)
    return functional.cross_entropy(logits, labels, reduction="none")


def _by_record(values: Tensor, rows: Tensor, records: int) -> Tensor:
    return values.new_zeros(records).index_add(0, rows, values)
