from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint
from transformers.pytorch_utils import Conv1D

from remanent.core.packed import is_packed, keep_as_packed, lora_delta, merged_forward, refuse_repacked
from remanent.core.quantization import QuantizationFormat, clipped, round_to
from remanent.errors import UnsupportedError

bitsandbytes = pytest.importorskip("bitsandbytes")


class Net(nn.Module):
    """Two layers of the kinds that a test asks for, with a nonlinearity between them."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.is_loaded_in_4bit = any(isinstance(layer, bitsandbytes.nn.Linear4bit) for layer in (first, second))

    def forward(self, x: Tensor, run: Callable[..., Tensor] = lambda layer, x: layer(x)) -> Tensor:
        return run(self.second, torch.tanh(run(self.first, x)))


def packed(inputs: int, outputs: int, double: bool = True, dtype: torch.dtype = torch.float32) -> nn.Module:
    layer = bitsandbytes.nn.Linear4bit(
        inputs, outputs, compute_dtype=dtype, quant_type="nf4", compress_statistics=double
    )
    keep_as_packed(layer)  # as `load_nf4` does: repacked for inference, it loses its scales
    return layer.to(dtype).to("cpu")


def adapted(net: nn.Module, **options: Any) -> Any:
    """The net with a LoRA whose B is not zero."""
    targets = options.pop("target_modules", ["first", "second"])
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(net, config)


def nf4_net(**options: Any) -> Any:
    torch.manual_seed(0)
    double, dtype = options.pop("double", True), options.pop("dtype", torch.float32)
    return adapted(Net(packed(64, 48, double, dtype), packed(48, 10, double, dtype)), **options)


def layers(model: Any) -> list[Any]:
    return [model.base_model.model.first, model.base_model.model.second]


def dense(model: Any, x: Tensor, format: QuantizationFormat) -> Tensor:
    """The same net with its merged weights written out, straight-through as W + (Q(W) - W).detach()."""
    for index, layer in enumerate(layers(model)):
        base = layer.get_base_layer()
        a, b = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
        weight = bitsandbytes.functional.dequantize_4bit(base.weight.data, base.weight.quant_state).float()
        merged = weight + layer.scaling["default"] * (b @ a)
        through = torch.where(clipped(merged, format), merged.detach(), merged)
        rounded = through + (round_to(merged, format) - through).detach()
        x = F.linear(x, rounded.to(x.dtype), base.bias)
        x = torch.tanh(x) if index == 0 else x
    return x


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def inside(model: Any, format: QuantizationFormat, work: Callable[[], Any]) -> Any:
    first, second = layers(model)

    def rounded(weight: Tensor) -> Tensor:
        return round_to(weight, format)

    def beyond(weight: Tensor) -> Tensor:
        return clipped(weight, format)

    mask = beyond if format.clips else None
    with merged_forward(first, rounded, mask), merged_forward(second, rounded, mask):
        return work()


def test_what_is_packed() -> None:
    assert not is_packed(nn.Linear(2, 2))
    assert not is_packed(nn.Linear(2, 2).weight)
    assert not is_packed(nn.LayerNorm(2))
    assert not is_packed(nn.BatchNorm1d(2))  # it counts batches in an integer buffer
    assert not is_packed(nn.Sequential(packed(64, 2)))  # children are asked themselves
    assert not is_packed(nn.Linear(2, 2, dtype=torch.bfloat16))
    assert is_packed(packed(64, 2))
    assert is_packed(packed(64, 2).weight)
    storage = bitsandbytes.nn.Linear4bit(64, 2, quant_storage=torch.bfloat16).to("cpu")
    assert storage.weight.dtype == torch.bfloat16
    assert is_packed(storage)
    assert is_packed(bitsandbytes.nn.Linear8bitLt(4, 4, has_fp16_weights=False).to("cpu"))
    assert is_packed(nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False))
    assert is_packed(torch.zeros(2).to(torch.float8_e4m3fn))
    gptq = nn.Module()
    gptq.register_buffer("qweight", torch.zeros(2, 2, dtype=torch.int32))
    assert is_packed(gptq)
    assert all(is_packed(layer) for layer in layers(nf4_net()))
    assert not is_packed(layers(adapted(Net(nn.Linear(4, 4), nn.Linear(4, 4))))[0])


def test_a_packed_weight_is_refused_by_rounding() -> None:
    storage = bitsandbytes.nn.Linear4bit(64, 2, quant_storage=torch.bfloat16).to("cpu")
    for layer in (storage, packed(64, 2)):
        with pytest.raises(UnsupportedError, match="Params4bit"):
            round_to(layer.weight, QuantizationFormat.parse("int4"))


@pytest.mark.parametrize("rslora", [False, True])
def test_the_delta_is_that_of_peft(rslora: bool) -> None:
    torch.manual_seed(0)
    net = adapted(Net(nn.Embedding(11, 6), nn.Linear(6, 4)), use_rslora=rslora)
    for layer in layers(net):
        assert torch.equal(lora_delta(layer), layer.get_delta_weight("default"))
        assert lora_delta(layer).shape == layer.get_base_layer().weight.shape
    first = layers(adapted(Net(Conv1D(5, 7), nn.Linear(5, 4)), fan_in_fan_out=True, target_modules=["first"]))[0]
    assert torch.equal(lora_delta(first), first.get_delta_weight("default"))
    assert lora_delta(first).shape == first.get_base_layer().weight.shape == (7, 5)


def test_the_delta_sums_active_adapters_and_is_zero_without_any() -> None:
    net = adapted(Net(nn.Linear(6, 5), nn.Linear(5, 4)))
    net.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
    first, second = layers(net)
    one, two = first.get_delta_weight("default"), first.get_delta_weight("other")
    assert torch.equal(lora_delta(first), one)
    net.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(lora_delta(first), one + two)
    net.base_model.set_adapter("other")
    assert torch.equal(lora_delta(first), two)
    assert torch.equal(lora_delta(second), torch.zeros(4, 5))
    with net.disable_adapter():
        assert torch.equal(lora_delta(first), torch.zeros(5, 6))
    net.merge_adapter()
    assert torch.equal(lora_delta(first), torch.zeros(5, 6))


def test_the_delta_is_differentiable_and_float32_under_autocast() -> None:
    first = layers(adapted(Net(nn.Linear(6, 5), nn.Linear(5, 4))))[0]
    expected = lora_delta(first)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lora_delta(first), expected)
    expected.sum().backward()
    assert first.lora_A["default"].weight.grad.abs().sum() > 0
    assert first.lora_B["default"].weight.grad.abs().sum() > 0
    assert first.get_base_layer().weight.grad is None


def test_the_delta_of_a_bfloat16_adapter_is_float32() -> None:
    first = layers(adapted(Net(nn.Linear(6, 5), nn.Linear(5, 4)).bfloat16()).bfloat16())[0]
    a, b = first.lora_A["default"].weight, first.lora_B["default"].weight
    assert a.dtype == torch.bfloat16
    assert torch.equal(lora_delta(first), 2 * (b.float() @ a.float()))


def test_what_is_no_plain_lora_is_refused_by_name() -> None:
    dora = layers(adapted(Net(nn.Linear(6, 5), nn.Linear(5, 4)), use_dora=True))[0]
    with pytest.raises(UnsupportedError, match="Dora"):
        lora_delta(dora)
    convolution = layers(adapted(Net(nn.Conv1d(6, 5, 3), nn.Linear(5, 4))))[0]
    with pytest.raises(UnsupportedError, match="Conv1d"):
        lora_delta(convolution)
    with pytest.raises(UnsupportedError, match="Linear is no LoRA"):
        lora_delta(nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match="Dora"), merged_forward(layers(nf4_net(use_dora=True))[0], torch.round):
        pass


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", ["int4-row", "int8", "nf4", "int4-g32-asym", "int4-row-p90"])
def test_values_and_gradients_are_those_of_a_dense_layer(name: str, double: bool) -> None:
    model, format = nf4_net(double=double), QuantizationFormat.parse(name)
    x = torch.randn(5, 64)
    reference = x.clone().requires_grad_()
    expected = dense(model, reference, format)
    expected.square().sum().backward()
    wanted = gradients(model)
    model.zero_grad()

    def work() -> Tensor:
        out = model(x)
        out.square().sum().backward()
        return out

    x = x.requires_grad_()
    plain = model(x).detach()
    out = inside(model, format, work)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    assert (plain - out).abs().max() > 1e-4
    found = gradients(model)
    assert set(found) == set(wanted)
    assert all("lora_" in name for name in found)
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-5, atol=1e-6)


def test_without_the_mask_a_clipped_value_has_a_gradient() -> None:
    model, format = nf4_net(), QuantizationFormat.parse("int4-row-p50")
    x = torch.randn(5, 64)
    inside(model, format, lambda: model(x).sum().backward())
    masked = gradients(model)
    model.zero_grad()
    first, second = layers(model)

    def rounded(weight: Tensor) -> Tensor:
        return round_to(weight, format)

    with merged_forward(first, rounded), merged_forward(second, rounded):
        model(x).sum().backward()
    assert any((masked[name] - gradient).abs().max() > 1e-3 for name, gradient in gradients(model).items())


def test_dropout_is_off_and_the_adapters_bias_counts() -> None:
    model, format = nf4_net(lora_dropout=0.5, lora_bias=True), QuantizationFormat.parse("int8-row")
    model.train()
    for layer in layers(model):
        nn.init.normal_(layer.lora_B["default"].bias)
    x = torch.randn(5, 64)
    out = inside(model, format, lambda: model(x))
    assert torch.equal(out, inside(model, format, lambda: model(x)))
    fine = QuantizationFormat.parse("bf16")
    model.eval()
    torch.testing.assert_close(inside(model, fine, lambda: model(x)), model(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    model, format = nf4_net(), QuantizationFormat.parse("int4-row")
    x = torch.randn(5, 64, requires_grad=True)
    inside(model, format, lambda: model(x).square().sum().backward())
    wanted = gradients(model)
    model.zero_grad()

    def again(layer: nn.Module, value: Tensor) -> Tensor:
        return checkpoint(layer, value, use_reentrant=reentrant)

    inside(model, format, lambda: model(x, run=again).square().sum().backward())
    found = gradients(model)
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    # Outside the block the recomputation sees the layer as it is.
    model.zero_grad()
    loss = inside(model, format, lambda: model(x, run=again).square().sum())
    if not reentrant:
        with pytest.raises(CheckpointError):
            loss.backward()
        return
    loss.backward()
    assert any(not torch.allclose(gradients(model)[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_the_layers_dtype(dtype: torch.dtype) -> None:
    model, format = nf4_net(dtype=dtype), QuantizationFormat.parse("int4-row")
    x = torch.randn(5, 64)
    out = inside(model, format, lambda: model(x))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, dense(model, x.to(dtype), format).float(), rtol=0.03, atol=0.03)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(inside(model, format, lambda: layers(model)[0](x)), inside_off(model, x, format))


def inside_off(model: Any, x: Tensor, format: QuantizationFormat) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return inside(model, format, lambda: layers(model)[0](x))


def test_the_forward_is_back_whatever_happens() -> None:
    model = nf4_net()
    first, x = layers(model)[0], torch.randn(2, 64)
    plain = first(x)
    with merged_forward(first, torch.zeros_like):
        assert not torch.equal(first(x), plain)
    assert "forward" not in vars(first)
    with pytest.raises(RuntimeError), merged_forward(first, torch.zeros_like):
        first(torch.randn(2, 3))  # the wrong width
    assert "forward" not in vars(first)
    assert torch.equal(first(x), plain)

    def hooked(x: Tensor) -> Tensor:
        return x + 1

    first.forward = hooked
    with merged_forward(first, torch.zeros_like):
        outer = first(x)
        with merged_forward(first, torch.ones_like):
            assert not torch.equal(first(x), outer)
        assert torch.equal(first(x), outer)
    assert vars(first)["forward"] is hooked
    assert torch.equal(first(x), x + 1)


@pytest.mark.parametrize("widths", [(128, 64), (32, 48)])
def test_a_layer_kept_as_packed_answers_alike_in_both_modes_and_passes_the_gradient_on(widths: tuple[int, int]) -> None:
    """Without, where the CPU has AVX-512 bfloat16, one kind is refused in eval mode, the other loses its gradient."""
    layer, x = packed(*widths), torch.randn(3, widths[0])
    layer.support_avx512bf16_for_cpu = bitsandbytes.functional.has_avx512bf16()  # as bitsandbytes makes it
    keep_as_packed(layer)
    trained = layer.train()(x)
    assert torch.equal(layer.eval()(x), trained)
    x.requires_grad_()
    layer.train()(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    refuse_repacked(layer)


def test_disabled_adapters_leave_the_rounded_base() -> None:
    model, x = nf4_net(), torch.randn(2, 64)
    first = layers(model)[0]
    base = first.get_base_layer()
    with model.disable_adapter(), merged_forward(first, lambda weight: weight.clone()):
        torch.testing.assert_close(first(x), base(x))


def test_other_bases_are_refused_on_entry() -> None:
    unpacked = layers(adapted(Net(nn.Linear(4, 4), nn.Linear(4, 4))))[0]
    with pytest.raises(UnsupportedError, match="Linear4bit only"), merged_forward(unpacked, torch.round):
        pass
    first = layers(nf4_net())[0]
    with merged_forward(first, torch.clone), pytest.raises(UnsupportedError, match="adapter_names"):
        first(torch.randn(2, 64), adapter_names=["default", "default"])
    first.get_base_layer().weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(UnsupportedError, match="keep_as_packed"):
        refuse_repacked(first)
    with pytest.raises(UnsupportedError, match="repacked"), merged_forward(first, torch.round):
        pass
    assert "forward" not in vars(first)
