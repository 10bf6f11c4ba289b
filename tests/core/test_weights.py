from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from remanent.core.quantization import QuantizationFormat, round_to
from remanent.core.weights import Weights, has_adapter, identity, local, norm, sharded_on
from remanent.errors import InputError, UnsupportedError


def kinds(model):
    weights = Weights.of(model)
    found = {}
    for name in weights:
        found.setdefault(weights.kind(name), []).append(name)
    return found


def test_kinds_of_a_llama(tiny_llama):
    found = kinds(tiny_llama(tied=False))
    assert set(found) == {"embedding", "head", "linear", "vector"}
    assert found["embedding"] == ["model.embed_tokens.weight"]
    assert found["head"] == ["lm_head.weight"]
    assert len(found["linear"]) == 14
    assert all("norm" in name for name in found["vector"])


def test_kinds_of_a_gpt2(tiny_gpt2):
    found = kinds(tiny_gpt2())
    assert found["embedding"] == ["transformer.wte.weight", "transformer.wpe.weight"]
    assert len(found["linear"]) == 8
    assert set(found) == {"embedding", "linear", "vector"}


def test_kinds_of_a_lora_also_on_the_head(tiny_llama, lora):
    model = lora(tiny_llama(tied=False), target_modules=["q_proj", "lm_head"])
    found = kinds(model)
    assert len(found["adapter"]) == 2 * 3
    assert found["head"] == ["base_model.model.lm_head.base_layer.weight"]
    assert "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight" in found["linear"]
    assert has_adapter(model)
    assert not has_adapter(tiny_llama())


def test_tensors_of_more_dimensions_are_other():
    assert kinds(nn.Conv2d(2, 3, 2)) == {"other": ["weight"], "vector": ["bias"]}


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_appear_once(tied, tiny_llama):
    weights = Weights.of(tiny_llama(tied=tied))
    assert ("lm_head.weight" in weights) == (not tied)
    assert "model.embed_tokens.weight" in weights


def test_parameters_on_one_memory_appear_once_and_other_views_of_it_apart():
    memory = torch.randn(4, 4)
    model = nn.Module()
    model.a, model.same, model.part = nn.Parameter(memory), nn.Parameter(memory), nn.Parameter(memory[:2])
    assert list(Weights.of(model)) == ["a", "part"]
    assert identity(model.a) == identity(model.same) != identity(model.part)


def test_empty_and_meta_tensors_are_all_different():
    for make in (lambda: torch.empty(0), lambda: torch.empty(2, device="meta")):
        first, second = make(), make()
        assert identity(first) != identity(second)


def test_integer_parameters_are_no_weights():
    model = nn.Linear(2, 2)
    model.codes = nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False)
    assert list(Weights.of(model)) == ["weight", "bias"]


@pytest.mark.parametrize(("architecture", "inputs"), [("mixtral", 2), ("gpt_oss", 1)])
def test_a_row_of_experts_is_a_neuron_of_one_of_them(architecture, inputs, tiny_mixture):
    """By what a layer computes: a neuron of 0 says 0, whatever it is asked."""
    model = tiny_mixture(architecture)
    weights = Weights.of(model)
    for name in ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"):
        assert weights.of_experts(name)
        assert weights.within_rows(name) == (inputs,)
        assert weights.transposed(name) == (inputs == 1)
    down = weights["model.layers.0.mlp.experts.down_proj"]
    with torch.no_grad():
        down.masked_fill_(torch.arange(3)[:, None, None] >= 0, 1.0)
        down.select(3 - inputs, 5).zero_()
    for bias in (parameter for name, parameter in weights.items() if name.endswith("experts.down_proj_bias")):
        nn.init.zeros_(bias)
    found = []
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, result: found.append(result))
    model(input_ids=torch.tensor([[3, 4, 5]]))
    states = found[0][0] if isinstance(found[0], tuple) else found[0]
    assert ((states == 0).all(dim=(0, 1)) == (torch.arange(32) == 5)).all()
    assert not weights.of_experts("model.layers.0.self_attn.q_proj.weight")


def test_other_experts_and_filters():
    from transformers.models.jetmoe.modeling_jetmoe import JetMoeParallelExperts
    from transformers.models.llama4.modeling_llama4 import Llama4TextExperts

    config = SimpleNamespace(num_local_experts=2, intermediate_size=5, hidden_size=4, hidden_act="silu")
    assert Weights.of(Llama4TextExperts(config)).within_rows("gate_up_proj") == (1,)
    assert Weights.of(JetMoeParallelExperts(2, 4, 5)).within_rows("weight") == (2,)
    assert Weights.of(nn.Conv1d(2, 3, 5)).within_rows("weight") == (1, 2)


def test_owner_only_and_trainable(tiny_llama):
    model = tiny_llama()
    weights = Weights.of(model)
    name = "model.layers.1.mlp.up_proj.weight"
    assert weights.owner(name) is model.model.layers[1].mlp.up_proj
    model.model.layers[1].requires_grad_(False)
    assert name in weights
    assert name not in weights.trainable()
    part = weights.only([name])
    assert list(part) == [name]
    assert (part.kind(name), part.owner(name), part.model) == ("linear", weights.owner(name), model)
    assert Weights.of(weights) is weights


def test_param_groups_are_named_by_place(tiny_llama):
    model = tiny_llama()
    first, *rest = model.parameters()
    weights = Weights.of(torch.optim.SGD([{"params": [first]}, {"params": rest, "lr": 0.1}], lr=0.2).param_groups)
    assert list(weights)[:2] == ["0.0", "1.0"]
    assert weights["0.0"] is first
    assert weights.owner("0.0") is None
    assert (weights.kind("0.0"), weights.kind(f"1.{len(rest) - 1}")) == ("other", "vector")
    with pytest.raises(InputError, match="param_groups"):
        Weights.of(model.parameters())


def test_shards_without_rows_are_refused_by_name():
    fsdp = nn.Linear(2, 2)
    fsdp.weight._is_flat_param = True
    with pytest.raises(UnsupportedError, match=r"weight is a flat FSDP1 shard.*FSDP2"):
        Weights.of(fsdp)

    class FlatParameter(nn.Parameter):
        pass

    flat = nn.Module()
    flat.all = FlatParameter(torch.zeros(3))
    with pytest.raises(UnsupportedError, match="FSDP1"):
        Weights.of(flat)
    zero = nn.Linear(2, 2)
    zero.bias.ds_id = 7
    with pytest.raises(UnsupportedError, match="bias is partitioned by ZeRO-3"):
        Weights.of(zero)
    with pytest.raises(UnsupportedError, match=r"0\.1 is partitioned"):
        Weights.of(torch.optim.SGD(zero.parameters(), lr=0.1).param_groups)


def test_norm_is_over_all_tensors_in_float32():
    assert float(norm([torch.tensor([3.0]), torch.tensor([[4.0]])])) == 5.0
    assert float(norm([])) == 0.0
    # 2^16 ones: in bfloat16 the sum would stop growing at 256.
    assert float(norm([torch.ones(2**16, dtype=torch.bfloat16)])) == 256.0


def test_whole_tensors_are_not_sharded():
    tensor = torch.zeros(2)
    assert local(tensor) is tensor
    assert sharded_on(tensor) == ()


def test_sharded_rounding_is_the_rounding_of_the_whole(two_processes):
    from transformers import AutoModelForCausalLM

    folder, results = two_processes
    weights = Weights.of(AutoModelForCausalLM.from_pretrained(folder / "model"))
    for rank in results:
        for label in ("int4-row", "int4-g32"):
            format = QuantizationFormat.parse(label)
            for name, weight in weights.items():
                rounded = round_to(weight.detach(), format) if weights.kind(name) == "linear" else weight
                assert torch.equal(rank[f"sharded.{label}.{name}"], rounded), name
        assert all(torch.equal(rank[f"after.{name}"], weight) for name, weight in weights.items())
        torch.testing.assert_close(rank["sharded.norm"], norm(weights.values()))
        assert "refused.tensor" in rank  # a scale per tensor needs the whole tensor
        assert "refused.noise" in rank


def test_a_sharded_model_is_rounded_inside_a_look_and_back_after_it(two_processes):
    from test_update import read_batches
    from transformers import AutoModelForCausalLM

    from remanent.core.displacement import Rounding

    folder, results = two_processes
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokens = read_batches(folder / "batches.safetensors")["forget"].input_ids
    with torch.no_grad():
        here = model(input_ids=tokens).logits
        with Rounding("int4-row").at(model):
            there = model(input_ids=tokens).logits
    assert (there - here).abs().max() > 1e-3
    for label, expected in (
        ("before", here),
        ("there", there),
        ("after", here),
        ("applied", there),
        ("undone", here),
    ):
        torch.testing.assert_close(results[0][f"logits.{label}"], expected, rtol=0, atol=1e-6)
    model(input_ids=tokens).logits.square().mean().backward()
    torch.testing.assert_close(results[0]["gradient.after_look"], model.lm_head.weight.grad, rtol=1e-4, atol=1e-7)
    assert results[0]["refused.layers"] == results[0]["refused.average"] == 1


def test_sharded_ascent_is_the_ascent_of_the_whole(two_processes):
    from test_update import read_batches
    from transformers import AutoModelForCausalLM

    from remanent.core.displacement import Ascent

    folder, results = two_processes
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    batch = read_batches(folder / "batches.safetensors")["forget"]

    def climbed():
        return model(input_ids=batch.input_ids).logits.square().mean()

    with Ascent(0.5).at(model, loss=climbed):
        for name, weight in Weights.of(model).items():
            for rank in results:
                torch.testing.assert_close(rank[f"ascent.{name}"], weight.detach(), rtol=1e-4, atol=1e-5)
