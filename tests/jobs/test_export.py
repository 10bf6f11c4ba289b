"""Export: from a run, a folder or a LoRA to a GGUF file."""

from __future__ import annotations

import pytest
import torch

from remanent.data.record import Message, Record
from remanent.errors import InputError, UnsupportedError
from remanent.jobs import export as job
from remanent.jobs.export import export
from remanent.models.load import load
from remanent.models.lora import add_lora
from remanent.models.save import save
from remanent.models.tiny import tiny

RECORDS = [Record(f"r{n}", f"g{n}", (Message("user", f"Where does {n} live?"),), f"In town {n}.") for n in range(9)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    loaded = tiny(RECORDS, hidden=32, layers=1)
    save(loaded.model, loaded.tokenizer, folder / "model")
    (folder / "config.yaml").write_text("model: m\n")
    return folder


def test_a_run_and_its_model_give_the_same_file(run, tmp_path):
    by_run = export(str(run), tmp_path / "run.gguf", "q4_0")
    by_model = export(str(run / "model"), tmp_path / "model.gguf", "q4_0")
    assert by_run.read_bytes() == by_model.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.gguf", "run.gguf"]


def test_a_lora_is_merged_first(run, tmp_path):
    base = load(run / "model")
    model = add_lora(base.model, rank=2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    adapter = save(model, base.tokenizer, tmp_path / "adapter")
    again = load(export(str(adapter), tmp_path / "a.gguf", "f32")).model
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=1e-4)


def test_a_file_whose_tokenizer_reads_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    whole = job.load_tokenizer

    def other(folder, file=None):
        tokenizer = whole(folder, file)
        if file is not None:
            tokenizer.add_tokens(["Born in 19"])
        return tokenizer

    monkeypatch.setattr(job, "load_tokenizer", other)
    with pytest.raises(UnsupportedError, match="encodes text otherwise"):
        export(str(run), tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


def test_bad_input_is_said_before_any_work(run, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.gguf"):
        export(str(run), tmp_path / "a.bin")
    with pytest.raises(InputError, match="a folder that is there"):
        export(str(run), tmp_path / "no" / "a.gguf")
    with pytest.raises(InputError, match="one of bf16"):
        export(str(run), tmp_path / "a.gguf", "q4_K_M")
    with pytest.raises(InputError, match="model"):
        export(str(tmp_path / "nothing"), tmp_path / "a.gguf")
