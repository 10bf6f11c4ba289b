"""What a model says of every scored token of a set: one forward pass, from which measures on text are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from remanent.core.batch import Encoded, collate
from remanent.core.modes import evaluating
from remanent.core.scores import answer_scores

_ROWS = 256  # tokens whose whole distributions are copied at once


@dataclass(frozen=True)
class TokenScores:
    """The scored tokens of one record, in order, on the CPU: four tensors of (tokens,).

    Args:
        log_probs: float32: log-probability of each token given what precedes it, in nats.
        hits: bool: whether it was the most likely token.
        means: float32: mu_t, the expected log-probability of a token drawn from the model there.
        deviations: float32: sigma_t, the standard deviation of that log-probability.
    """

    log_probs: Tensor
    hits: Tensor
    means: Tensor
    deviations: Tensor

    @property
    def nll(self) -> float:
        """Mean NLL per token, in nats."""
        return -float(self.log_probs.double().mean())


@torch.no_grad()
def token_scores(
    model: nn.Module,
    encoded: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[TokenScores]:
    """Score every token of a set, in eval mode, longest records first; softmax and moments are float32.

    Args:
        model: the model; its mode is given back.
        encoded: the records.
        pad_id: token that fills short rows.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic; None computes in the weights' dtype.
        on_batch: called after each batch with the number of its records.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].input_ids), index))
    found: dict[int, TokenScores] = {}
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None), evaluating(model):
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            scores = answer_scores(model, collate(encoded, indices, pad_id).to(device))
            columns = [scores.log_probs, scores.hits, *moments(scores.distribution)]
            sizes = [int(count) for count in scores.counts.tolist()]
            parts = [torch.split(column.cpu(), sizes) for column in columns]
            for row, index in enumerate(indices):
                found[index] = TokenScores(*(part[row].clone() for part in parts))
            if on_batch is not None:
                on_batch(len(indices))
    return [found[index] for index in range(len(encoded))]


def moments(distribution: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the log-probability of a token drawn from each distribution.

    Zhang et al., Min-K%++ (arXiv 2404.02936), equation 3: mu = sum_v p_v log p_v, sigma^2 = sum_v p_v (log p_v - mu)^2;
    the squares are taken round the mean, since the difference of two large sums loses a small variance.

    Args:
        distribution: float32, (tokens, vocabulary): log-probabilities; what has none is minus infinity.
    """
    means, deviations = [], []
    for part in torch.split(distribution, _ROWS):
        shares = part.exp()
        finite = part.clamp_min(-1e4)  # 0 times minus infinity is no number; e^-10000 is 0 all the same
        mean = (shares * finite).sum(dim=-1)
        means.append(mean)
        deviations.append((shares * (finite - mean[:, None]) ** 2).sum(dim=-1).sqrt())
    empty = distribution.new_zeros(0)
    return torch.cat([empty, *means]), torch.cat([empty, *deviations])
