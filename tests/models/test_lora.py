from __future__ import annotations

import importlib.util

import pytest
import torch

from remanent.core.digest import weights_digest
from remanent.core.packed import refuse_repacked
from remanent.errors import InputError, MissingExtraError, UnsupportedError
from remanent.models import lora
from remanent.models.load import load
from remanent.models.lora import add_lora, load_nf4, lora_layers
from remanent.models.save import save
from remanent.models.tiny import tiny

IDS = torch.tensor([[3, 70, 71, 72, 73], [3, 80, 81, 82, 83]])
with_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra: quant)"
)


def one_checkpointed_step(model):
    model.train()
    # Reentrant: the form that gives no gradient to adapters in a block whose input needs none.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    one_step(model)


def one_step(model):
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()


def unmoved(model, before):
    return [name for name, weight in model.named_parameters() if "lora_B" in name and torch.equal(weight, before[name])]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gemma"])
def test_every_adapter_trains_under_gradient_checkpointing(records, architecture):
    model = add_lora(tiny(records, architecture=architecture, hidden=32).model, rank=4, dropout=0.0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert len([name for name in before if "lora_B" in name]) == len(lora_layers(model))
    one_checkpointed_step(model)
    assert unmoved(model, before) == []
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert all("lora_" in name for name in changed)


def test_without_input_gradients_that_test_would_fail(small):
    model = add_lora(small.model, rank=4, dropout=0.0)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    small.model.get_input_embeddings()._forward_hooks.clear()
    with pytest.raises(RuntimeError, match="does not require grad"):
        one_step(model)


def test_inputs_require_gradients_before_checkpointing_is_asked_for(small):
    model = add_lora(small.model, rank=4)
    assert small.model.get_input_embeddings()(IDS).requires_grad
    assert not small.model.get_input_embeddings().weight.requires_grad
    assert model(IDS).logits.requires_grad


def test_starts_as_the_base_and_the_seed_decides(records):
    bases = [tiny(records, hidden=32).model for _copy in range(3)]
    expected = bases[0](IDS).logits
    torch.manual_seed(3)
    before = torch.get_rng_state()
    models = [add_lora(base, rank=4, seed=seed) for base, seed in zip(bases, (0, 0, 1), strict=True)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(model(IDS).logits, expected) for model in models)
    assert not models[0].training
    digests = [weights_digest(model) for model in models]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("architecture", "targets", "leaves"),
    [
        ("llama", "attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("llama", "all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("llama", ["layers.1.mlp.up_proj"], {"up_proj"}),
        ("gpt2", "attention", {"c_attn", "c_proj"}),
    ],
)
def test_targets(records, architecture, targets, leaves):
    names = list(lora_layers(add_lora(tiny(records, architecture=architecture, hidden=32).model, targets=targets)))
    assert {name.rsplit(".", 1)[-1] for name in names} == leaves
    if targets == "attention":
        assert all("attn" in name for name in names)
    if isinstance(targets, list):
        assert len(names) == 1


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"rank": 0}, "rank: got 0"),
        ({"alpha": 0}, "alpha: got 0"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"targets": ["q_prj"]}, "did you mean 'q_proj'"),
        ({"targets": "linear"}, "all-linear"),
        ({"targets": []}, "all-linear"),
    ],
)
def test_refuses_before_any_change(small, keywords, named):
    before = set(small.model.state_dict())
    with pytest.raises(InputError, match=named):
        add_lora(small.model, **keywords)
    assert set(small.model.state_dict()) == before


def test_refuses_a_second_adapter(small):
    with pytest.raises(UnsupportedError, match="adapters already"):
        add_lora(add_lora(small.model))


def test_refuses_tied_weights(small):
    with pytest.raises(UnsupportedError, match=r"embed_tokens\.weight"):
        add_lora(small.model, targets=["q_proj", "lm_head"])
    assert not lora_layers(small.model)


@with_bitsandbytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nf4_base_trains_adapters_saves_them_and_refuses_to_merge(small, tmp_path, dtype):
    folder = save(small.model, small.tokenizer, tmp_path / "base")
    packed = load_nf4(folder, dtype=dtype)
    weight = packed.model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.uint8
    assert weight.quant_state.quant_type == "nf4"
    assert weight.quant_state.nested
    assert packed.model.dtype == dtype
    assert packed.model.lm_head.weight is packed.model.model.embed_tokens.weight
    torch.testing.assert_close(packed.model(IDS).logits.float(), small.model(IDS).logits, atol=0.2, rtol=0.2)
    refuse_repacked(packed.model)  # asked in eval mode, it is as it was
    with pytest.raises(UnsupportedError, match="is packed"):
        save(packed.model, packed.tokenizer, tmp_path / "no")
    model = add_lora(packed.model, rank=4, dropout=0.0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    one_checkpointed_step(model)
    assert unmoved(model, before) == []
    assert torch.equal(model.get_parameter("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"), weight)
    with pytest.raises(UnsupportedError, match="cannot be merged into a packed base"):
        save(model, packed.tokenizer, tmp_path / "no", merged=True)
    assert [item.name for item in tmp_path.iterdir()] == ["base"]
    adapter = save(model, packed.tokenizer, tmp_path / "adapter")
    assert weights_digest(load_nf4(adapter, dtype=dtype).model) == weights_digest(model)
    assert load(adapter).model.base_model.model.dtype == torch.float32


@with_bitsandbytes
def test_digest_sees_the_scales_of_packed_weights(small, tmp_path):
    model = load_nf4(save(small.model, small.tokenizer, tmp_path / "base")).model
    before = weights_digest(model)
    model.model.layers[0].mlp.up_proj.weight.quant_state.absmax[0] += 1
    assert weights_digest(model) != before


def test_nf4_without_bitsandbytes(monkeypatch, tmp_path):
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"remanent\[quant\]"):
        load_nf4(tmp_path)
