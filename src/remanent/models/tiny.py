"""A small model of a real architecture with random weights, and a tokenizer made from the texts it will meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from remanent.data.record import Record
from remanent.errors import InputError, did_you_mean
from remanent.models.load import Loaded
from remanent.models.source import Source

ARCHITECTURES = ("gemma", "gpt2", "llama", "qwen2")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_SMALLEST_VOCABULARY = 256 + len(_SPECIAL)  # every byte, so that any text can be encoded
_HEAD = 16


def tiny(
    records: Sequence[Record],
    *,
    architecture: str = "llama",
    hidden: int = 64,
    layers: int = 2,
    seed: int = 0,
    vocabulary: int = 2048,
    chat_template: bool = True,
    max_length: int = 512,
) -> Loaded:
    """A causal language model with random weights, that learns a hundred short records in under a minute on one core.

    It saves and loads as any model does. The tokenizer is a byte-level BPE, so that it encodes any text.

    Args:
        records: every text that the model will meet, forget, retain and control alike: all are for the tokenizer.
        architecture: "llama", "qwen2", "gemma" or "gpt2".
        hidden: width; a multiple of 32.
        layers: 1 or more.
        seed: of the weights.
        vocabulary: the most tokens, 261 or more; texts with fewer frequent pieces give fewer.
        chat_template: whether the tokenizer has one.
        max_length: the longest input in tokens.

    Raises:
        InputError: for a value out of range or an unknown architecture.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if architecture not in ARCHITECTURES:
        raise InputError("architecture", architecture, did_you_mean(architecture, ARCHITECTURES))
    if hidden < 2 * _HEAD or hidden % (2 * _HEAD):
        raise InputError("hidden", hidden, f"a multiple of {2 * _HEAD}")
    if layers < 1:
        raise InputError("layers", layers, "1 or more")
    if vocabulary < _SMALLEST_VOCABULARY:
        raise InputError(
            "vocabulary", vocabulary, f"{_SMALLEST_VOCABULARY} or more (every byte and the special tokens)"
        )
    if not records:
        raise InputError("records", records, "at least one record to make a tokenizer from")
    tokenizer = _tokenizer(records, vocabulary, chat_template, max_length)
    config = AutoConfig.for_model(architecture, **_sizes(architecture, hidden, layers, max_length, tokenizer))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]
    return Loaded(model, tokenizer, Source("tiny", f"tiny-{architecture}"))


def _sizes(architecture: str, hidden: int, layers: int, max_length: int, tokenizer: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // _HEAD,
        "max_position_embeddings": max_length,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "gpt2":
        return {**sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return {**sizes, "num_key_value_heads": hidden // (2 * _HEAD), "head_dim": _HEAD, "intermediate_size": 3 * hidden}


def _tokenizer(records: Sequence[Record], vocabulary: int, chat_template: bool, max_length: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(records), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|end|>",
        eos_token="<|end|>",
        additional_special_tokens=_SPECIAL[2:],
        chat_template=TEMPLATE if chat_template else None,
        model_max_length=max_length,
    )


def _texts(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        yield from (turn.content for turn in (*record.prompt, *record.paraphrased_prompt))
        yield from (record.answer, record.paraphrased_answer, *record.wrong_answers)
