from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from remanent.core.digest import weights_digest
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models.load import load
from remanent.models.lora import add_lora
from remanent.models.save import MANIFEST, check_saved, is_saved, save
from remanent.models.tiny import tiny


def train_a_little(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_bits_dtype_and_ties_come_back(small, tmp_path, dtype):
    model = small.model.to(dtype)
    saved = save(model, small.tokenizer, tmp_path / "new" / "m")
    again = load(saved, dtype=None)
    for name, weight in model.state_dict().items():
        assert again.model.state_dict()[name].dtype == weight.dtype == dtype
        assert torch.equal(again.model.state_dict()[name].view(torch.uint8), weight.view(torch.uint8))
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    assert again.tokenizer.chat_template == small.tokenizer.chat_template
    assert again.model.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert is_saved(saved)
    assert not [file for file in saved.iterdir() if file.suffix in (".bin", ".pt")]
    assert [folder.name for folder in saved.parent.iterdir()] == ["m"]


def test_untied_weights_come_back_untied(stories, tmp_path):
    loaded = load(stories)
    loaded.model.config.tie_word_embeddings = False
    loaded.model.lm_head.weight = torch.nn.Parameter(loaded.model.lm_head.weight.detach() + 1)
    again = load(save(loaded.model, loaded.tokenizer, tmp_path / "m"))
    assert weights_digest(again.model) == weights_digest(loaded.model)
    assert again.model.lm_head.weight is not again.model.model.embed_tokens.weight


def test_an_earlier_save_is_replaced(small, tmp_path):
    save(small.model, small.tokenizer, tmp_path / "m")
    train_a_little(small.model)
    save(small.model, small.tokenizer, tmp_path / "m")
    assert weights_digest(load(tmp_path / "m").model) == weights_digest(small.model)
    assert [folder.name for folder in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("spoil", ["foreign", "extra", "missing"])
def test_what_is_not_a_complete_save_is_never_replaced(small, tmp_path, spoil):
    folder = tmp_path / "m"
    if spoil == "foreign":
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    else:
        save(small.model, small.tokenizer, folder)
        if spoil == "extra":
            (folder / "notes.txt").write_text("mine")
        else:
            (folder / "config.json").unlink()
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(InputError, match="a complete earlier save"):
        save(small.model, small.tokenizer, folder)
    assert sorted(file.name for file in folder.iterdir()) == before
    assert [item.name for item in tmp_path.iterdir()] == ["m"]


def test_a_save_that_fails_leaves_the_old_one_and_nothing_else(small, tmp_path, monkeypatch):
    save(small.model, small.tokenizer, tmp_path / "m")
    before = weights_digest(small.model)
    train_a_little(small.model)

    def full(*arguments, **keywords):
        raise OSError("no space left")

    monkeypatch.setattr(type(small.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        save(small.model, small.tokenizer, tmp_path / "m")
    assert [item.name for item in tmp_path.iterdir()] == ["m"]
    assert weights_digest(load(tmp_path / "m").model) == before


def test_what_killed_saves_left_goes_with_the_next(small, tmp_path):
    """Killed while it wrote, and killed between its two renames, when the old save lay aside."""
    for number, end in enumerate((".tmp", ".old")):
        save(small.model, small.tokenizer, tmp_path / "m").rename(tmp_path / f".m.0000000{number}{end}")
    (tmp_path / ".mine.00000000.tmp").mkdir()
    save(small.model, small.tokenizer, tmp_path / "m")
    assert sorted(item.name for item in tmp_path.iterdir()) == [".mine.00000000.tmp", "m"]


def test_the_save_that_lies_aside_stays_until_another_is_whole(small, tmp_path, monkeypatch):
    aside = save(small.model, small.tokenizer, tmp_path / "m").rename(tmp_path / ".m.00000000.old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(small.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save(small.model, small.tokenizer, tmp_path / "m")
    assert [item.name for item in tmp_path.iterdir()] == [aside.name]


def test_a_file_or_an_unwritable_place_is_refused(small, tmp_path):
    (tmp_path / "m").write_text("")
    with pytest.raises(InputError, match="not a file"):
        save(small.model, small.tokenizer, tmp_path / "m")
    with pytest.raises(InputError, match="a place that can be written"):
        save(small.model, small.tokenizer, tmp_path / "m" / "below")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_or_missing_file_is_named(small, tmp_path, name):
    folder = save(small.model, small.tokenizer, tmp_path / "m")
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match=name):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        load(folder)


@pytest.mark.parametrize("name", ["../outside", "a/b", "..", "/etc/hostname"])
def test_a_manifest_cannot_point_outside(tmp_path, name):
    (tmp_path / MANIFEST).write_text(json.dumps({"files": {name: "0" * 64}}))
    with pytest.raises(IntegrityError, match="not the name of a file"):
        check_saved(tmp_path)


def test_mixed_dtypes_and_merging_without_an_adapter_are_refused(small, tmp_path):
    with pytest.raises(InputError, match="merged"):
        save(small.model, small.tokenizer, tmp_path / "m", merged=True)
    small.model.model.norm.to(torch.bfloat16)
    with pytest.raises(UnsupportedError, match="several dtypes"):
        save(small.model, small.tokenizer, tmp_path / "m")
    assert not any(tmp_path.iterdir())


def test_the_inside_of_a_lora_model_is_refused(small, tmp_path):
    add_lora(small.model)
    with pytest.raises(UnsupportedError, match="that add_lora returned"):
        save(small.model, small.tokenizer, tmp_path / "m")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_is_the_model_with_its_adapter_and_leaves_the_live_one_alone(records, tmp_path, dtype, architecture):
    base = tiny(records, architecture=architecture, hidden=32)
    base_copy = copy.deepcopy(base.model.to(dtype).state_dict())
    model = add_lora(base.model, rank=4)
    train_a_little(model)
    ids = torch.tensor([[3, 70, 71, 72]])
    expected, before = model(ids).logits, weights_digest(model)
    folder = save(model, base.tokenizer, tmp_path / "m", merged=True)
    assert weights_digest(model) == before
    assert torch.equal(model(ids).logits, expected)
    again = load(folder, dtype=None)
    assert set(again.model.state_dict()) == set(base_copy)
    assert again.model.dtype == dtype
    assert again.source.base is None
    peer = copy.deepcopy(model).merge_and_unload().state_dict()
    assert all(torch.equal(weight, peer[name]) for name, weight in again.model.state_dict().items())
    assert not any(torch.equal(peer[name], base_copy[name]) for name in peer if "attn" in name and peer[name].ndim == 2)
    if dtype == torch.float32:
        torch.testing.assert_close(again.model(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_alone_comes_back_on_its_base(small, tmp_path):
    base_folder = save(small.model, small.tokenizer, tmp_path / "base")
    loaded = load(base_folder)
    model = add_lora(loaded.model, rank=4, targets="attention")
    train_a_little(model)
    folder = save(model, loaded.tokenizer, tmp_path / "adapter")
    assert "model.safetensors" not in [file.name for file in folder.iterdir()]
    for again in (load(folder), load(base_folder, adapter=folder)):
        assert weights_digest(again.model) == weights_digest(model)
        assert not again.model.training
        assert again.source.name == str(folder)
        assert again.source.base.name == str(base_folder)
        assert "adapter_model.safetensors" in again.source.files()
        trained = {name for name, weight in again.model.named_parameters() if weight.requires_grad}
        assert trained == {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_merging_lora_on_tied_weights_is_refused(small, tmp_path):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"])
    with pytest.warns(UserWarning, match="tied"):
        model = get_peft_model(small.model, config)
    with pytest.raises(UnsupportedError, match="is shared"):
        save(model, small.tokenizer, tmp_path / "m", merged=True)
    assert not any(tmp_path.iterdir())
