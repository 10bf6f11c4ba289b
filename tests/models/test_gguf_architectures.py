"""Llama, Mistral, Qwen2 and Qwen3 as GGUF files: the same logits, the same tokens, and what is refused."""

from __future__ import annotations

import copy
import json

import gguf
import pytest
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from remanent.errors import UnsupportedError
from remanent.models import gguf_write
from remanent.models.gguf_vocabulary import _SPLITS, vocabulary_of
from remanent.models.gguf_write import write_gguf
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

ROPE = {"rope_type": "default", "rope_theta": 500000.0}  # no configuration's own default
KINDS = {
    "llama": {},
    "mistral": {"sliding_window": None, "head_dim": 32},  # heads wider than hidden / heads, as in Mistral Nemo
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}
IDS = torch.arange(5, 45)[None]


@pytest.fixture(scope="module")
def tokenizer(records):
    return tiny(records, hidden=32, layers=1).tokenizer


def made(kind, tokenizer, **changes):
    """A small model whose norms and biases are random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "rope_parameters": ROPE,
    }
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**sizes, **KINDS[kind], **changes})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.3)
    return model


def refused(kind, tokenizer, tmp_path, reason, **changes):
    folder = save(made(kind, tokenizer, **changes), tokenizer, tmp_path / "m")
    with pytest.raises(UnsupportedError, match=reason):
        write_gguf(folder, tmp_path / "a.gguf", "f32")
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_come_back(kind, tied, tokenizer, tmp_path):
    model = made(kind, tokenizer, tie_word_embeddings=tied)
    folder = save(model, tokenizer, tmp_path / "m")
    again = load(write_gguf(folder, tmp_path / "a.gguf", "f32")).model
    rounded = load(write_gguf(folder, tmp_path / "b.gguf", "q8_0")).model
    with torch.no_grad():
        before, after, close = model(IDS).logits, again(IDS).logits, rounded(IDS).logits
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
    assert 0 < (close - before).norm() / before.norm() < 0.04
    assert again.config.model_type == gguf_write._ARCHITECTURES[kind].gguf
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied


def test_qwen2_keeps_its_biases_and_its_rows(tokenizer, tmp_path):
    model = made("qwen2", tokenizer)
    reader = gguf.GGUFReader(write_gguf(save(model, tokenizer, tmp_path / "m"), tmp_path / "a.gguf", "q4_0"))
    assert reader.get_field("general.architecture").contents() == "qwen2"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    attention = model.model.layers[1].self_attn
    for name, layer in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj)):
        bias = tensors[f"blk.1.attn_{name}.bias"]
        assert bias.tensor_type.name == "F32"
        assert layer.bias.abs().min() > 0
        assert torch.equal(torch.tensor(bias.data), layer.bias.detach())
    assert "blk.1.attn_output.bias" not in tensors


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_q_and_k_are_interleaved_in_llama_alone(kind, tokenizer, tmp_path):
    model = made(kind, tokenizer)
    reader = gguf.GGUFReader(write_gguf(save(model, tokenizer, tmp_path / "m"), tmp_path / "a.gguf", "f32"))
    stored = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    for name in ("q", "k"):
        own = getattr(model.model.layers[0].self_attn, f"{name}_proj").weight.detach()
        half = reader.get_field(f"{gguf_write._ARCHITECTURES[kind].gguf}.attention.key_length").contents() // 2
        second = half if kind in ("llama", "mistral") else 1  # the row that turns with the first
        assert torch.equal(stored[f"blk.0.attn_{name}.weight"][1], own[second])


def test_a_window_that_llama_cpp_would_ignore_is_refused(tokenizer, tmp_path):
    refused("mistral", tokenizer, tmp_path, "sliding window of 16 tokens", sliding_window=16)
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    refused("qwen2", tokenizer, tmp_path, "which llama.cpp ignores in a qwen2", **window)
    refused("qwen3", tokenizer, tmp_path, "which llama.cpp ignores in a qwen3", **window)
    never = save(made("mistral", tokenizer, sliding_window=256), tokenizer, tmp_path / "n")  # as long as the context
    assert write_gguf(never, tmp_path / "a.gguf", "f32").is_file()


def test_biases_and_activations_that_have_no_place_are_refused(tokenizer, tmp_path):
    refused("llama", tokenizer, tmp_path, r"k_proj\.bias: such a weight of a llama", attention_bias=True)
    refused("llama", tokenizer, tmp_path, r"down_proj\.bias: such a weight of a llama", mlp_bias=True)
    refused("qwen3", tokenizer, tmp_path, r"k_proj\.bias: such a weight of a qwen3", attention_bias=True)
    refused("qwen2", tokenizer, tmp_path, "the activation gelu", hidden_act="gelu")


def test_a_file_with_weights_that_transformers_drops_is_refused(tokenizer, tmp_path, monkeypatch):
    biased = gguf_write._ARCHITECTURES["llama"]._replace(biases=("q_proj", "k_proj", "v_proj", "o_proj"))
    monkeypatch.setitem(gguf_write._ARCHITECTURES, "llama", biased)
    folder = save(made("llama", tokenizer, attention_bias=True), tokenizer, tmp_path / "m")
    file = write_gguf(folder, tmp_path / "a.gguf", "f32")
    with pytest.raises(UnsupportedError, match=r"leaves out 8 weight\(s\), the first: blk\.0\.attn_k\.bias"):
        load(file)


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "tekken"])
def test_tokens_come_back_by_each_way_of_splitting(name, records, tmp_path):
    loaded = tiny(records, hidden=32, layers=1)
    text = "Born in 1987, author number 12's year 2024 — naïve, 世界 and Здравствуй!\n\n  def f(x): <|end|> McDonald"
    plain = loaded.tokenizer(text).input_ids
    pattern = next(regex for regex, split in _SPLITS.items() if split == name)
    backend = loaded.tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if name == "qwen2":
        backend.normalizer = normalizers.NFC()
    expected = loaded.tokenizer(text).input_ids
    assert expected != plain  # the way of splitting shows
    assert vocabulary_of(loaded.tokenizer, len(loaded.tokenizer)).split == name
    folder = save(loaded.model, loaded.tokenizer, tmp_path / "m")
    again = load(write_gguf(folder, tmp_path / "a.gguf", "f32")).tokenizer
    assert again(text).input_ids == expected
    assert again.decode(expected) == text


def with_a_word(tokenizer, split, whole):
    """The tokenizer with that way of splitting, and a word that no merge makes, which it takes whole or not."""
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    plain["model"]["vocab"]["Zyx"] = len(tokenizer)
    plain["model"]["ignore_merges"] = whole
    words = copy.deepcopy(tokenizer)
    words._tokenizer = Tokenizer.from_str(json.dumps(plain))
    pattern = next(regex for regex, name in _SPLITS.items() if name == split)
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    return words


@pytest.mark.parametrize(("split", "whole"), [("llama-bpe", True), ("qwen2", False)])
def test_a_word_that_is_a_token_is_taken_whole_where_llama_cpp_does(split, whole, tokenizer, tmp_path):
    """Llama 3's vocabulary holds words that no merge makes."""
    words = with_a_word(tokenizer, split, whole)
    folder = save(made("llama", words), words, tmp_path / "m")
    again = load(write_gguf(folder, tmp_path / "a.gguf", "f32")).tokenizer
    assert (words("Zyx").input_ids == [len(tokenizer)]) == whole
    assert again("Zyx").input_ids == words("Zyx").input_ids


def test_a_tokenizer_that_takes_words_otherwise_than_llama_cpp_is_refused(tokenizer):
    for split, whole in (("llama-bpe", False), ("qwen2", True)):
        with pytest.raises(UnsupportedError, match=r"'Zyx'.*llama\.cpp"):
            vocabulary_of(with_a_word(tokenizer, split, whole), len(tokenizer) + 1)
