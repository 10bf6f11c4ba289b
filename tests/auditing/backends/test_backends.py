"""Real quantizers, on a small saved Llama: what they give is what our own rounding says, up to their own details."""

from __future__ import annotations

import importlib.util

import gguf
import pytest
import torch

from remanent.auditing.backends import base
from remanent.auditing.backends.gguf_file import GivenGGUF
from remanent.auditing.backends.named import BACKENDS, backend_of
from remanent.auditing.condition import parse_conditions
from remanent.core.displacement import Rounding
from remanent.data.authors import author_sets
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models import gguf_rope, gguf_write
from remanent.models.gguf_write import write_gguf
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

IDS = torch.arange(5, 45)[None]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny(author_sets(3, forget=2, retain=2, control=2, questions=2).forget, hidden=64)
    return save(made.model, made.tokenizer, tmp_path_factory.mktemp("m") / "model")


def logits(model):
    with torch.no_grad():
        return model(IDS).logits.float()


def distance(one, two):
    return ((one - two).norm() / one.norm()).item()


@pytest.mark.parametrize(
    ("name", "package", "rounding", "nearer"),
    [
        # The share of the rounding's own effect that may be left between the library and our simulation of it.
        ("bnb-nf4", "bitsandbytes", "nf4", 0.3),  # the library also rounds the blocks' scales
        ("bnb-int8", "bitsandbytes", "int8", 1.5),  # the library also rounds activations
        ("torchao-int8", "torchao", "int8", 1.5),  # the library's grid has a code more on one side
        ("gguf-q8_0", "gguf", "int8-g32", 2.0),  # the file also rounds embeddings
        ("gguf-q4_0", "gguf", "int4-g32", 1.5),  # the file's grid has a code more on one side
    ],
)
def test_close_to_the_simulated_precision_and_not_to_full(folder, name, package, rounding, nearer):
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f"{package} is not installed: pip install 'remanent[{'torchao' if package == 'torchao' else 'quant'}]'"
        )
    loaded = load(folder)
    full = logits(loaded.model)
    with Rounding(rounding).at(loaded.model):
        simulated = logits(loaded.model)
    real = logits(BACKENDS[name].open(folder, CPU))
    assert 0 < distance(full, real) < 0.5
    assert distance(simulated, real) <= nearer * distance(full, simulated)


def test_torchao_int4_runs_where_it_can_and_says_why_not_elsewhere(folder):
    pytest.importorskip("torchao", reason="pip install 'remanent[torchao]'")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" or importlib.util.find_spec("mslk") is None:
        with pytest.raises(UnsupportedError, match="cannot run here: torchao on"):
            BACKENDS["torchao-int4"].open(folder, device)
        return
    model = BACKENDS["torchao-int4"].open(folder, device)
    with torch.no_grad():
        assert torch.isfinite(model(IDS.to(device)).logits).all()


def test_torchao_int4_leaves_no_layer_out_silently(tiny_llama, folder, tmp_path):
    pytest.importorskip("torchao", reason="pip install 'remanent[torchao]'")
    odd = save(tiny_llama(), load(folder).tokenizer, tmp_path / "odd")  # rows of 40
    with pytest.raises(UnsupportedError, match="rows of 40 weights are no multiple of 32"):
        BACKENDS["torchao-int4"].open(odd, CPU)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    made = tiny(author_sets(3, forget=2, retain=2, control=2, questions=2).forget, architecture="gpt2", hidden=64)
    return save(made.model, made.tokenizer, tmp_path_factory.mktemp("m") / "gpt2")


def test_layers_that_keep_their_inputs_first_are_rounded_as_bitsandbytes_does(gpt2):
    pytest.importorskip("bitsandbytes", reason="pip install 'remanent[quant]'")
    model = load(gpt2).model
    full = logits(model)
    with Rounding("nf4").at(model):
        simulated = logits(model)
    real = logits(BACKENDS["bnb-nf4"].open(gpt2, CPU))
    assert 0 < distance(simulated, real) <= 0.3 * distance(full, simulated)


def test_torchao_says_so_where_layers_are_of_a_kind_that_it_leaves_alone(gpt2):
    pytest.importorskip("torchao", reason="pip install 'remanent[torchao]'")
    with pytest.raises(UnsupportedError, match="is a Conv1D"):
        BACKENDS["torchao-int8"].open(gpt2, CPU)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1"])
def test_a_written_file_is_what_its_reader_gets(folder, tmp_path, kind):
    again = load(write_gguf(folder, tmp_path / "a.gguf", kind)).model
    assert torch.equal(logits(BACKENDS[f"gguf-{kind}"].open(folder, CPU)), logits(again))


def test_a_given_file_is_read_and_named_by_its_digest(folder, tmp_path):
    file = write_gguf(folder, tmp_path / "model.Q4_K_M.gguf", "q5_1")
    found = backend_of(f"gguf:{file}")
    assert isinstance(found, GivenGGUF)
    found.check_fits(load(folder).model)
    assert torch.equal(logits(found.open(folder, CPU)), logits(load(file).model))
    assert found.name == "gguf:model.Q4_K_M.gguf"
    assert found.sha256 in found.description
    assert str(tmp_path) not in found.description + found.name + repr(found)


def test_a_k_quant_is_read_as_its_format_says(tmp_path, monkeypatch):
    """No writer here makes K-quants: blocks of random codes stand for one, and the package gguf says what they mean."""
    made = tiny(author_sets(3, forget=1, retain=1, control=1, questions=1).forget, hidden=256, layers=1)
    folder = save(made.model, made.tokenizer, tmp_path / "m")
    whole, written = gguf_write._packed, {}

    def k_quant(values, kind):
        if values.ndim < 2 or kind == "q8_0":
            return whole(values, kind)
        blocks = torch.randint(0, 256, (values.shape[0], values.shape[1] // 256, 144), dtype=torch.uint8).numpy()
        blocks[..., :4] = torch.tensor([2e-4, 1e-4], dtype=torch.float16).view(torch.uint8).numpy()  # its two scales
        packed = blocks.reshape(values.shape[0], -1)
        written[len(written)] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_K)
        return packed, gguf.GGMLQuantizationType.Q4_K

    monkeypatch.setattr(gguf_write, "_packed", k_quant)
    found = GivenGGUF.of(write_gguf(folder, tmp_path / "m.Q4_K_M.gguf", "q4_0"))
    found.check_fits(made.model)
    read = [weight.detach() for weight in found.open(folder, CPU).parameters()]
    for values in written.values():
        rows = torch.from_numpy(values).sort(0).values  # llama.cpp orders the rows of two matrices otherwise
        assert any(w.shape == rows.shape and torch.allclose(w.sort(0).values, rows) for w in read)


def test_a_given_file_of_another_model_is_refused(folder, tmp_path):
    other = tiny(author_sets(3, forget=2, retain=2, control=2, questions=2).forget, hidden=64, layers=1)
    file = write_gguf(save(other.model, other.tokenizer, tmp_path / "other"), tmp_path / "other.gguf", "q8_0")
    with pytest.raises(InputError, match="num_hidden_layers 2"):
        GivenGGUF.of(file).check_fits(load(folder).model)
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:4000])
    with pytest.raises(IntegrityError, match=r"cut\.gguf: is not a whole GGUF file"):
        GivenGGUF.of(tmp_path / "cut.gguf").check_fits(load(folder).model)
    with pytest.raises(InputError, match="that is there"):
        backend_of(f"gguf:{tmp_path / 'nothing.gguf'}")


def test_a_given_file_whose_positions_would_be_lost_is_refused_before_work(folder, tmp_path, monkeypatch):
    def with_yarn(writer, rope, width):
        gguf_rope.add_rope(writer, rope, width)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)

    monkeypatch.setattr(gguf_write, "add_rope", with_yarn)
    file = write_gguf(folder, tmp_path / "y.gguf", "q8_0")
    with pytest.raises(UnsupportedError, match=r"y\.gguf: its rotary positions \(llama\) are scaled by 'yarn'"):
        GivenGGUF.of(file).check_fits(load(folder).model)


def test_a_qwen2_is_written_and_read_back_with_its_scaled_positions(tmp_path):
    made = tiny(author_sets(3, forget=1, retain=1, control=1, questions=1).forget, architecture="qwen2", layers=1)
    made.model.config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    own = save(made.model, made.tokenizer, tmp_path / "m")
    assert distance(logits(load(own).model), logits(BACKENDS["gguf-f16"].open(own, CPU))) < 1e-3
    assert distance(logits(made.model), logits(load(own).model)) > 3e-3  # its positions are those before


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-int8", "torchao-int8", "torchao-int4"])
def test_a_library_that_is_absent_is_said_with_its_extra(name, monkeypatch):
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=r"remanent\[(quant|torchao)\]"):
        parse_conditions(name)
    assert name in [item.info.name for item in parse_conditions("thorough")]  # its absence is a note there


def test_every_description_says_which_layers():
    for backend in BACKENDS.values():
        assert "every linear layer but the output" in backend.description or "every matrix" in backend.description
