"""The models that a contract is kept on: full weights, a LoRA, a LoRA on a base packed to NF4."""

from __future__ import annotations

import importlib.util
from copy import deepcopy

import pytest
import torch

VIEWS = [
    "full",
    "lora",
    pytest.param(
        "lora-nf4",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"),
        ],
    ),
]


@pytest.fixture(params=VIEWS)
def view(request):
    return request.param


@pytest.fixture(scope="session")
def made_models():
    """(view, dropout) -> a model of which only copies are used: building one takes longer than a run's step."""
    return {}


@pytest.fixture
def make_model(view, tiny_llama, lora, made_models, tmp_path_factory):
    """The same model at each call: the user's own, seen as `view` says."""

    def built(dropout):
        if view == "full":
            return tiny_llama(dropout=dropout)
        if view == "lora":
            return lora(tiny_llama(), lora_dropout=dropout)
        folder = tmp_path_factory.mktemp("base")
        tiny_llama().save_pretrained(folder)
        return lora(_packed(folder), lora_dropout=dropout)

    def make(dropout=0.1):
        if (view, dropout) not in made_models:
            made_models[view, dropout] = built(dropout)
        return deepcopy(made_models[view, dropout])

    return make


def _packed(folder):
    """A base packed to NF4, as `remanent.models.lora.load_nf4` packs one that has a tokenizer."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}, dtype=torch.float32
    ).eval()
