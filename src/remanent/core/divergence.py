"""How far one distribution over tokens lies from another."""

from __future__ import annotations

from torch import Tensor


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
