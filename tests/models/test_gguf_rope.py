"""Scaled rotary positions in GGUF: written as llama.cpp reads them, read back where transformers leaves them out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from remanent.errors import UnsupportedError
from remanent.models import gguf_write
from remanent.models.gguf_rope import FACTORS, _factors, add_rope
from remanent.models.gguf_write import write_gguf
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0}
IDS = torch.arange(5, 25)[None]
FAR = torch.arange(0, 20000, 1000)[None]


@pytest.fixture(scope="module")
def saved(records, tmp_path_factory):
    """Rotary parameters and architecture -> a saved model and the model."""

    def make(rope, architecture="llama"):
        loaded = tiny(records, architecture=architecture, hidden=64, layers=2)
        with torch.random.fork_rng([]), torch.no_grad():
            torch.manual_seed(0)
            for weight in loaded.model.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
        loaded.model.config.rope_parameters = rope
        loaded.model.config.max_position_embeddings = 32768
        folder = save(loaded.model, loaded.tokenizer, tmp_path_factory.mktemp("rope") / "m")
        return folder, load(folder).model

    return make


def far_logits(model):
    with torch.no_grad():
        return model(IDS, position_ids=FAR).logits


def test_factors_by_hand():
    theta = (
        8192 / (4 * np.pi)
    ) ** 2  # the second pair turns twice within 8192 positions: a third of the way from 1 to 4
    np.testing.assert_allclose(_factors(8.0, theta, 4), [1.0, 2.4], rtol=1e-6)  # 1 / ((2/3)/8 + 1/3)


def test_factors_of_llama_3_are_those_of_transformers():
    config = LlamaConfig(hidden_size=4096, num_attention_heads=32, rope_parameters=LLAMA3)
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].double()
    plain = 500000.0 ** (-torch.arange(0, 128, 2).double() / 128)
    np.testing.assert_allclose(_factors(8.0, 500000.0, 128), (plain / scaled).numpy(), rtol=1e-5)


@pytest.mark.parametrize(("architecture", "rope"), [("llama", LLAMA3), ("llama", LINEAR), ("qwen2", LINEAR)])
def test_far_positions_come_back_which_transformers_alone_loses(rope, architecture, saved, tmp_path):
    folder, model = saved(rope, architecture)
    file = write_gguf(folder, tmp_path / "a.gguf", "f32")
    again = load(file)
    assert again.model.config.rope_parameters == rope
    expected = far_logits(model)
    torch.testing.assert_close(far_logits(again.model), expected, atol=1e-5, rtol=1e-4)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    assert (far_logits(alone) - expected).norm() / expected.norm() > 0.05
    kept = load(save(again.model, again.tokenizer, tmp_path / "kept")).model  # and once saved
    torch.testing.assert_close(far_logits(kept), expected, atol=1e-5, rtol=1e-4)


def test_what_a_file_cannot_hold_is_refused(saved, tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 4096}
    for rope, architecture, reason in (
        (yarn, "llama", "scaled by 'yarn'"),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "llama", "scaled by 'dynamic'"),
        (LLAMA3, "qwen2", "have no place in a qwen2"),
        (LLAMA3 | {"original_max_position_embeddings": 4096}, "llama", "otherwise than in Llama 3"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            write_gguf(saved(rope, architecture)[0], tmp_path / "a.gguf", "f32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keys", "table", "reason"),
    [
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, None, "scaled by 'yarn', which transformers"),
        ({}, [1.0, 2.0, 3.0, 8.0, 8.0, 8.0, 8.0, 8.0], "with other factors than Llama 3's"),
        ({"rope.scaling.factor": 4.0}, [1.0] * 8, "scaled by 'linear', which transformers"),
        ({"rope.scale_linear": 4.0}, None, None),  # the key of old files, whose type was linear unsaid
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None, None),
    ],
)
def test_files_of_others(keys, table, reason, saved, tmp_path, monkeypatch):
    def theirs(writer, rope, width):
        add_rope(writer, rope, width)
        for key, value in keys.items():
            (writer.add_string if isinstance(value, str) else writer.add_float32)(f"llama.{key}", value)
        if table is not None:
            writer.add_tensor(FACTORS, np.array(table, dtype=np.float32))

    monkeypatch.setattr(gguf_write, "add_rope", theirs)
    folder, _ = saved({"rope_type": "default", "rope_theta": 10000.0})
    file = write_gguf(folder, tmp_path / "a.gguf", "f32")
    if reason is None:
        found = load(file).model.config.rope_parameters
        assert found.get("factor") == (4.0 if "rope.scale_linear" in keys else None)
    else:
        with pytest.raises(UnsupportedError, match=reason):
            load(file)
