"""Answers that a model writes to prompts given as tokens, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from remanent.core.decoding import Decoding, Greedy
from remanent.errors import NotFiniteError


@torch.no_grad()
def generated(
    model: nn.Module,
    fill: int,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    autocast: torch.dtype | None = None,
    decoding: Decoding | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Tokens without the prompts, padded on the right: (answers, at most `max_new_tokens`), int64.

    Args:
        fill: token that fills short prompts on the left, and short answers on the right.
        decoding: as many answers to each prompt as its `samples`, one after the other; greedy where none is given.
        seed: of what is drawn; torch's own generators are given back as they were.

    Raises NotFiniteError where the model's logits are NaN or plus infinity, whose likeliest token is any.
    """
    device = next(model.parameters()).device
    length = max(map(len, prompts))
    ids = torch.tensor([[fill] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
    ):
        torch.manual_seed(seed)  # transformers draws from torch's own generators and takes no other
        out: torch.Tensor = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=fill,
            logits_processor=[_finite],
            **(decoding or Greedy()).options(),
        )
    return out[:, length:]


def _finite(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if not bool((scores < torch.inf).all()):  # what a model forbids itself is minus infinity
        raise NotFiniteError("the model's logits are not finite: what it writes would mean nothing")
    return scores
