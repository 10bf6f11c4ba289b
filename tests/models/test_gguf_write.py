"""Saved models as GGUF files: the same logits within the format's error, the same tokens."""

from __future__ import annotations

import gguf
import pytest
import torch

from remanent.errors import InputError, UnsupportedError
from remanent.models.gguf_write import TYPES, write_gguf
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

TEXT = "Where did author number 12 spend year 2024? Здравствуй, 世界 🙂\n\n  two  spaces, don't you <|end|> know…"
# The largest relative error of one weight: half a step, of a block's largest value or range.
HALF_STEP = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.6 / 127, "q5_1": 1.2 / 31, "q5_0": 1.2 / 16}
HALF_STEP |= {"q4_1": 1.2 / 15, "q4_0": 1.2 / 8}


@pytest.fixture(scope="module")
def wide(records):
    return tiny(records, hidden=64, layers=2)


@pytest.fixture(scope="module")
def folder(wide, tmp_path_factory):
    return save(wide.model, wide.tokenizer, tmp_path_factory.mktemp("m") / "model")


@pytest.mark.parametrize("kind", TYPES)
def test_weights_and_logits_come_back_within_the_formats_error(kind, wide, folder, tmp_path):
    again = load(write_gguf(folder, tmp_path / "a.gguf", kind))
    assert again.model.config.architectures == ["LlamaForCausalLM"] or again.model.config.model_type == "llama"
    before = dict(wide.model.named_parameters())
    for name, weight in again.model.named_parameters():
        largest = before[name].abs().max() * HALF_STEP[kind]
        assert (weight - before[name]).abs().max() <= largest, name
    ids = torch.tensor([wide.tokenizer(TEXT).input_ids])
    with torch.no_grad():
        ours, theirs = wide.model(ids).logits, again.model(ids).logits
    error = ((ours - theirs).norm() / ours.norm()).item()
    bound = {"f32": 1e-6, "f16": 1e-3, "bf16": 1e-2, "q8_0": 0.02, "q5_1": 0.06, "q5_0": 0.08}.get(kind, 0.15)
    assert error <= bound
    assert (error > 0) == (kind != "f32")


def test_the_tokenizer_encodes_alike(wide, folder, tmp_path):
    again = load(write_gguf(folder, tmp_path / "a.gguf", "f16")).tokenizer
    assert again(TEXT).input_ids == wide.tokenizer(TEXT).input_ids
    assert again.chat_template == wide.tokenizer.chat_template
    assert (again.bos_token_id, again.eos_token_id) == (wide.tokenizer.bos_token_id, wide.tokenizer.eos_token_id)
    assert again.decode(again(TEXT).input_ids) == TEXT


def test_a_sentencepiece_vocabulary_encodes_alike(stories, tmp_path):
    before = load(stories)
    again = load(write_gguf(stories, tmp_path / "a.gguf", "q8_0"))
    for text in ("Once upon a time, there was a girl.", "naïve 世界 12"):
        assert again.tokenizer(text).input_ids == before.tokenizer(text).input_ids
    ids = torch.tensor([before.tokenizer("Once upon a time, there was a little girl named Lily.").input_ids])
    with torch.no_grad():
        ours, theirs = before.model(ids).logits, again.model(ids).logits
    assert ((ours - theirs).norm() / ours.norm()).item() < 0.01
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # 172 columns are no blocks of 32
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_a_tied_embedding_stays_finer_than_four_bits(folder, tmp_path):
    reader = gguf.GGUFReader(write_gguf(folder, tmp_path / "a.gguf", "q4_0"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == "Q8_0"
    assert {kind for name, kind in kinds.items() if name.startswith("blk") and "norm" not in name} == {"Q4_0"}
    assert "output.weight" not in kinds
    assert reader.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q4_0


def test_untied_output_and_grouped_heads(tiny_llama, wide, tmp_path):
    model = tiny_llama(tied=False)
    model.resize_token_embeddings(len(wide.tokenizer) + 3)  # more rows than tokens
    again = load(write_gguf(save(model, wide.tokenizer, tmp_path / "m"), tmp_path / "a.gguf", "f32"))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, model(ids).logits, atol=2e-5, rtol=1e-5)
    assert again.model.lm_head.weight is not again.model.model.embed_tokens.weight


def test_what_has_no_gguf_form_is_refused_and_leaves_nothing(records, folder, tmp_path):
    other = tiny(records, architecture="gpt2", hidden=32, layers=1)
    with pytest.raises(UnsupportedError, match="GPT2LMHeadModel: cannot be written as GGUF"):
        write_gguf(save(other.model, other.tokenizer, tmp_path / "g"), tmp_path / "a.gguf", "q8_0")
    with pytest.raises(InputError, match="did you mean 'q8_0'"):
        write_gguf(folder, tmp_path / "a.gguf", "q8_O")
    with pytest.raises(InputError, match="a file that can be written"):
        write_gguf(folder, tmp_path / "not" / "there" / "a.gguf", "q8_0")
    assert not [file for file in tmp_path.iterdir() if "gguf" in file.name]
