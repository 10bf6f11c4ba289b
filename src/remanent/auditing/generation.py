"""Answers that a model writes to prompts given as tokens, as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from remanent.core.decoding import Decoding
from remanent.core.generation import generated
from remanent.data.encode import pad_id


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    autocast: torch.dtype | None = None,
    decoding: Decoding | None = None,
    seed: int = 0,
) -> list[str]:
    """What `generated` writes; greedy where no decoding is given. Arguments as there."""
    made = generated(model, pad_id(tokenizer), prompts, max_new_tokens, autocast, decoding, seed)
    return tokenizer.batch_decode(made, skip_special_tokens=True)
