from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from remanent.core.displacement import Rounding, Then, gradient_at
from remanent.core.packed import lora_delta
from remanent.core.quantization import QuantizationFormat, round_to
from remanent.core.selection import EVERYTHING, Selection
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError


def moved(displacement, model):
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    with displacement.at(model):
        return {
            name: tensor.detach().clone()
            for name, tensor in model.named_parameters()
            if not torch.equal(tensor, before[name])
        }


@pytest.mark.parametrize("name", ["int8", "int4", "int4-g32", "nf4", "int2-row-asym"])
def test_linear_layers_inside_the_model_are_rounded_and_nothing_else(name, tiny_llama, tiny_gpt2):
    format = QuantizationFormat.parse(name)
    for model in (tiny_llama(tied=True), tiny_llama(tied=False), tiny_gpt2()):
        linear = {
            f"{path}.weight": module
            for path, module in model.named_modules()
            if type(module).__name__ in ("Linear", "Conv1D") and path != "lm_head"
        }
        there = moved(Rounding(name), model)
        assert set(there) == set(linear)
        for key, module in linear.items():
            if isinstance(module, torch.nn.Linear):
                assert torch.equal(there[key], round_to(module.weight.detach(), format))
            else:  # a neuron is a column: bitsandbytes and others transpose it, too
                assert torch.equal(there[key].T, round_to(module.weight.detach().T, format))


def test_a_layer_that_keeps_its_inputs_first_is_rounded_as_the_same_linear_layer_with_a_lora_too(tiny_gpt2, lora):
    for name in ("int4-row", "nf4"):
        model = lora(tiny_gpt2())
        layer = next(module for module in layers(model).values() if "Conv1D" in type(module.base_layer).__name__)
        merged = layer.base_layer.weight.detach() + layer.get_delta_weight("default").detach()
        delta = layer.get_delta_weight("default").detach()
        with Rounding(name).at(model):
            there = (layer.base_layer.weight.detach() + delta).T
        expected = round_to(merged.T, QuantizationFormat.parse(name))
        torch.testing.assert_close(there, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["int4-row", "int8-tensor", "int4-g64", "nf4"])
@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_experts_are_rounded_each_as_the_matrix_of_a_layer(name, architecture, tiny_mixture):
    model, format = tiny_mixture(architecture), QuantizationFormat.parse(name)
    before = {key: tensor.detach().clone() for key, tensor in model.named_parameters() if "experts." in key}
    there = moved(Rounding(name, select=Selection(("*experts.*proj",))), model)
    assert set(there) == {key for key, tensor in before.items() if tensor.dim() == 3}
    for key, tensor in there.items():
        for found, expert in zip(tensor, before[key], strict=True):
            # What shares a scale over a whole matrix is the same, transposed or not.
            turned = architecture == "gpt_oss" and format.granularity != "tensor"
            expected = round_to(expert.T, format).T if turned else round_to(expert, format)
            assert torch.equal(found, expected)


def test_a_mixture_is_not_rounded_without_its_experts_and_their_clip_is_not_learned(tiny_mixture, make_batch):
    from transformers.models.jetmoe.modeling_jetmoe import JetMoeParallelExperts

    for model in (tiny_mixture(), nn.ModuleDict({"linear": nn.Linear(2, 2), "mlp": JetMoeParallelExperts(2, 4, 5)})):
        with pytest.raises(UnsupportedError, match="several experts"):
            moved(Rounding("int4"), model)
    experts = Selection(("*experts.*proj",))
    weights = Weights.of(tiny_mixture())
    for clip in ("int4-row-p90", "int4-tensor-asym"):
        with pytest.raises(UnsupportedError, match="several experts"):
            Rounding(clip, select=experts).pulls_back(weights)
    assert set(Rounding("bf16", select=experts).pulls_back(weights)) == set(experts.of(weights))


def test_a_clip_by_rows_cannot_be_learned_where_rows_are_columns(tiny_gpt2, make_batch, mean_loss):
    model = tiny_gpt2()

    def closure():
        loss = mean_loss(model, make_batch(2))
        loss.backward()
        return loss

    with Rounding("int4-row-p90").at(model):
        pass
    for whole in ("int4-tensor-asym", "bf16"):  # what shares a scale is the same, transposed or not
        gradient_at(Rounding(whole), Weights.of(model), closure)
    with pytest.raises(UnsupportedError, match="Conv1D"):
        gradient_at(Rounding("int4-row-p90"), Weights.of(model), closure)


def test_the_forms_of_a_format():
    assert str(Rounding("int4")) == "int4-row"
    assert Rounding("int4") == Rounding(QuantizationFormat.parse("int4-row"))
    assert str(Rounding("int4", view="adapter")) == "int4-row-adapter"
    with pytest.raises(InputError, match="did you mean 'int4-row'"):
        Rounding("int4-rwo")
    with pytest.raises(InputError, match="view"):
        Rounding("int4", view="both")


def test_a_cast_moves_every_parameter_and_a_selection_what_it_names(tiny_llama):
    model = tiny_llama()
    assert set(Rounding("bf16").moving(Weights.of(model))) == set(dict(model.named_parameters()))
    assert "lm_head.weight" in moved(Rounding("int4", select=EVERYTHING), tiny_llama(tied=False))
    assert list(moved(Rounding("int4", select=Selection(("*layers.0.mlp.up*",))), model)) == [
        "model.layers.0.mlp.up_proj.weight"
    ]
    with pytest.raises(InputError, match="selection"):
        moved(Rounding("int4", select=Selection(("nothing",))), model)


def layers(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize("name", ["int4", "int4-g32", "nf4", "int8-tensor"])
def test_merged_view_lands_base_plus_adapter_on_the_grid(name, tiny_llama, lora):
    model, format = lora(tiny_llama()), QuantizationFormat.parse(name)
    expected = {
        key: round_to((layer.base_layer.weight + lora_delta(layer)).detach(), format)
        for key, layer in layers(model).items()
    }
    others = {key: p.detach().clone() for key, p in model.named_parameters() if "base_layer" not in key}
    assert len(expected) == 14
    for source in (model, Weights.of(model)):
        with Rounding(name).at(source):
            for key, layer in layers(model).items():
                torch.testing.assert_close(
                    (layer.base_layer.weight + lora_delta(layer)).detach(), expected[key], atol=1e-6, rtol=0
                )
            assert all(torch.equal(p, others[key]) for key, p in model.named_parameters() if key in others)


def test_merged_view_of_a_bf16_base_is_on_the_grid_to_its_precision(tiny_llama, lora):
    model, format = lora(tiny_llama(dtype=torch.bfloat16)), QuantizationFormat.parse("int4")
    with Rounding("int4").at(model), torch.no_grad():
        for layer in layers(model).values():
            merged = layer.base_layer.weight.float() + lora_delta(layer)
            off = (merged - round_to(merged, format)).abs().max()
            assert off <= 2**-7 * merged.abs().max()


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["plain", "reentrant", "not-reentrant"])
def test_merged_view_gives_adapters_the_straight_through_gradient(
    checkpointing, tiny_llama, lora, make_batch, mean_loss
):
    model, batch, format = lora(tiny_llama(), lora_dropout=0.5), make_batch(4), QuantizationFormat.parse("int4")
    factors = {key: p for key, p in model.named_parameters() if p.requires_grad}
    # The reference: a plain model whose linear weights are W + d + (Q(W + d) - (W + d)).detach().
    plain = tiny_llama()
    weights = {}
    for key, layer in layers(model).items():
        merged = layer.base_layer.weight + lora_delta(layer)
        weights[key.removeprefix("base_model.model.") + ".weight"] = (
            merged + (round_to(merged.detach(), format) - merged).detach()
        )
    out = functional_call(plain, weights, (), {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask})
    loss = nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100
    )
    expected = dict(zip(factors, torch.autograd.grad(loss, list(factors.values())), strict=True))

    if checkpointing is not None:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    model.train()

    def closure():
        value = mean_loss(model, batch)
        value.backward()
        return value

    found = gradient_at(Rounding("int4"), Weights.of(model), closure)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-4, atol=1e-5)
    assert set(found.gradients) == set(factors)
    for key, gradient in expected.items():
        torch.testing.assert_close(found.gradients[key], gradient, rtol=1e-3, atol=1e-5)
        assert bool(gradient.any())


def test_dropout_of_the_adapter_is_off_inside_and_back_afterwards(tiny_llama, lora, make_batch):
    model, batch = lora(tiny_llama(), lora_dropout=0.5).train(), make_batch(3)
    with Rounding("int4").at(model), torch.no_grad():
        first, second = (model(input_ids=batch.input_ids).logits for _ in range(2))
    assert torch.equal(first, second)
    with torch.no_grad():
        assert not torch.equal(model(input_ids=batch.input_ids).logits, first)
    assert all(module.training for module in model.modules())


def test_adapter_view_rounds_the_factors_and_leaves_the_base(tiny_llama, lora):
    model = lora(tiny_llama())
    there = moved(Rounding("int4", view="adapter"), model)
    assert set(there) == {name for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}
    name = next(iter(there))
    assert torch.equal(there[name], round_to(model.get_parameter(name).detach(), QuantizationFormat.parse("int4")))
    with pytest.raises(InputError, match="selection"):
        moved(Rounding("int4", view="adapter"), tiny_llama())


def test_a_percentile_clip_of_a_merged_weight_can_be_looked_at_but_not_learned(tiny_llama, lora, make_batch, mean_loss):
    model, batch = lora(tiny_llama()), make_batch(2)

    def closure():
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    for point in (Rounding("int4-row-p90"), Then(Rounding("int8"), Rounding("int4-row-p90"))):
        with point.at(model):
            pass
        with pytest.raises(UnsupportedError, match="percentile"):
            gradient_at(point, Weights.of(model), closure)
    assert gradient_at(Rounding("int4-row-p90", view="adapter"), Weights.of(model), closure).gradients


class Packed(nn.Module):
    """A linear layer whose weight is stored as integers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)


def test_integer_weights_are_refused_and_nothing_moves():
    model = nn.Sequential(nn.Linear(4, 4), Packed())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedError, match="1 holds packed weights"), Rounding("int4").at(model):
        pass
    with pytest.raises(UnsupportedError, match="packed"):
        Rounding("int4").apply(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
