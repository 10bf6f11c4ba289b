"""How far one distribution over tokens or classes lies from another."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v) at each position, in nats: (positions,).

    Args:
        log_p: float32, (positions, vocabulary): log-probabilities; minus infinity where p has none.
        log_q: float32, the same shape; where p has some, q must too, or the divergence is infinite.
    """
    # Where p is 0 the term is 0, whatever q is: 0 times minus infinity would be no number, in the backward pass too.
    nothing = log_p.isneginf()
    gap = (log_p - log_q).masked_fill(nothing, 0.0) if bool(nothing.any()) else log_p - log_q
    return (log_p.exp() * gap).sum(dim=-1)


def js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """JS(p, q) = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, at each position, in bits: from 0 to 1.

    Args:
        log_p, log_q: float32, (positions, vocabulary): log-probabilities.
    """
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl_divergence(log_p, middle) + kl_divergence(log_q, middle)) / (2 * math.log(2))


def mean_divergence(
    target: Tensor, logits: Tensor, *, temperature: float = 1.0, symmetric: bool = False, mask: Tensor | None = None
) -> Tensor:
    """temperature^2 * mean over positions of KL(softmax(target / temperature) || softmax(logits / temperature)).

    In float32, summed over classes. The factor keeps the gradient's size as the temperature grows.

    Args:
        target: logits, (..., classes); whoever does not want a gradient through them detaches them.
        logits: of the same shape.
        temperature: above 0.
        symmetric: add the divergence the other way round.
        mask: (...): positions that count are those that are not 0; None counts all. Where none counts the mean is 0.
    """
    log_p, log_q = (functional.log_softmax(part.float() / temperature, dim=-1) for part in (target, logits))
    values = kl_divergence(log_p, log_q)
    if symmetric:
        values = values + kl_divergence(log_q, log_p)
    if mask is not None:
        values = values[mask != 0]
        if values.numel() == 0:
            return values.sum()
    return temperature**2 * values.mean()
