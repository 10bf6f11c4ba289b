"""What is measured: a model, and records for it."""

from __future__ import annotations

import torch
from torch import nn

from remanent.core.batch import IGNORED, Encoded


def model(tiny: bool) -> nn.Module:
    """SmolLM2-135M, or a Llama of 6 million parameters with random weights, on which fixed costs weigh more."""
    if not tiny:
        from remanent.models.load import load

        return load("smollm2-135m", cache=True).model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=4096, **sizes)).eval()


def name(tiny: bool) -> str:
    """What a table calls it."""
    return "Llama, 6 M parameters" if tiny else "SmolLM2-135M"


def records(of: nn.Module, count: int, *, tokens: int = 48, scored: int = 16, seed: int = 0) -> list[Encoded]:
    """Records of random tokens, whose last are scored."""
    vocabulary = of.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids = torch.randint(0, vocabulary, (count, tokens), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Encoded(tuple(row), (*[IGNORED] * (tokens - scored), *row[tokens - scored :])) for row in ids]
