"""One layer at a time: the same outputs as the whole model moved at once, at the memory of one layer."""

from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import (
    AdapterOff,
    Ascent,
    Erasure,
    Here,
    Interpolation,
    LayerOff,
    Noise,
    OneOf,
    Pruning,
    Relearning,
    Rounding,
    Subspace,
    Then,
)
from remanent.core.selection import EVERYTHING
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError


def logits(model, batch):
    with torch.no_grad():
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "point",
    [
        Here(),
        Rounding("int4"),
        Rounding("int4", select=EVERYTHING),
        Rounding("bf16"),
        Noise(0.2),
        Then(Noise(0.2), Rounding("int4")),
        OneOf(Rounding("int8"), Rounding("int4")),
    ],
    ids=str,
)
def test_a_forward_equals_that_of_the_whole_model_moved(point, tied, tiny_llama, make_batch, snapshot, same_bits):
    model, batch = tiny_llama(tied=tied), make_batch(3)
    before = snapshot(model)
    with point.at(model):
        expected = logits(model, batch)
    with point.at(model, layer_by_layer=True):
        assert torch.equal(logits(model, batch), expected)
        assert same_bits(snapshot(model), before)  # between forwards nothing is moved
        assert torch.equal(logits(model, batch), expected)
    assert same_bits(snapshot(model), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_interpolation_and_transposed_weights(tiny_gpt2, make_batch):
    model, batch = tiny_gpt2(), make_batch(3)
    for point in (Interpolation(tiny_gpt2(seed=1).state_dict(), 0.5), Rounding("int4")):
        with point.at(model):
            expected = logits(model, batch)
        with point.at(model, layer_by_layer=True):
            assert torch.equal(logits(model, batch), expected)


def test_lora(tiny_llama, lora, make_batch, snapshot, same_bits):
    model, batch = lora(tiny_llama(tied=False), lora_dropout=0.5).train(), make_batch(3)
    before, modes = snapshot(model), [module.training for module in model.modules()]
    for point in (Rounding("int4"), Rounding("int4", view="adapter"), AdapterOff()):
        if "adapter" in str(point):
            model.eval()
        with point.at(model):
            expected = logits(model, batch)
        with point.at(model, layer_by_layer=True):
            torch.testing.assert_close(logits(model, batch), expected)
        model.train()
    assert same_bits(snapshot(model), before)
    assert [module.training for module in model.modules()] == modes


def test_it_keeps_one_layer_at_a_time(tiny_llama, make_batch, monkeypatch):
    model, batch = tiny_llama(), make_batch(2)
    alive, most = set(), 0
    clone = torch.Tensor.clone
    names = {parameter.data_ptr() for parameter in model.parameters()}

    def counted(tensor, *arguments, **options):
        nonlocal most
        copy = clone(tensor, *arguments, **options)
        if tensor.data_ptr() in names:
            import weakref

            key = id(copy)
            alive.add((key, copy.nbytes))
            weakref.finalize(copy, alive.discard, (key, copy.nbytes))
            most = max(most, sum(size for _, size in alive))
        return copy

    monkeypatch.setattr(torch.Tensor, "clone", counted)
    with Rounding("int4").at(model, layer_by_layer=True):
        logits(model, batch)
    largest = max(module.weight.nbytes for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert 0 < most <= largest


@pytest.mark.parametrize("point", [Rounding("int4"), Pruning(0.3), Then(Noise(0.2), Rounding("int4"))], ids=str)
def test_a_forward_does_not_go_through_the_model_again_at_each_layer(point, tiny_llama, make_batch, monkeypatch):
    model, batch, walks = tiny_llama(), make_batch(2), []
    walk = torch.nn.Module.named_modules

    def counted(module, *arguments, **options):
        walks.append(module)
        return walk(module, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "named_modules", counted)
    with point.at(model, layer_by_layer=True):
        assert any(module is model for module in walks)  # on entry it did
        walks.clear()
        logits(model, batch)
    assert not any(module is model for module in walks)


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_a_forward_that_breaks_off_gives_the_weights_back(
    error, tiny_llama, make_batch, snapshot, same_bits, monkeypatch
):
    model, batch = tiny_llama(), make_batch(2)
    before = snapshot(model)

    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(model.model.layers[1].mlp.up_proj, "forward", broken)
    with pytest.raises(error), Rounding("int4").at(model, layer_by_layer=True):
        logits(model, batch)
    assert same_bits(snapshot(model), before)


def test_blocks_nest_and_generation_is_back_afterwards(tiny_llama, make_batch):
    model, batch = tiny_llama(), make_batch(2)
    with Rounding("int4").at(model, layer_by_layer=True), Noise(0.1).at(model, layer_by_layer=True):
        logits(model, batch)
    assert model.generate(batch.input_ids, max_new_tokens=1).shape == (2, batch.input_ids.shape[1] + 1)


def test_generating_is_refused(tiny_llama, lora, make_batch):
    ids = make_batch(2).input_ids
    for model in (tiny_llama(), lora(tiny_llama())):
        with Rounding("int4").at(model, layer_by_layer=True), pytest.raises(UnsupportedError, match="every token"):
            model.generate(input_ids=ids, max_new_tokens=1)


@pytest.mark.parametrize("name", ["ascent", "relearning", "then"])
def test_what_moves_the_model_as_a_whole_is_refused(name, tiny_llama, make_batch):
    relearning = Relearning([make_batch(1)], 1)
    point = {"ascent": Ascent(0.1), "relearning": relearning, "then": Then(relearning, Rounding("int4"))}[name]
    with (
        pytest.raises(UnsupportedError, match="as a whole"),
        point.at(tiny_llama(), loss=lambda: torch.zeros(()), layer_by_layer=True),
    ):
        pass


def test_a_model_is_needed(tiny_llama):
    with pytest.raises(InputError, match="model"), Noise(0.1).at(Weights.of(tiny_llama()), layer_by_layer=True):
        pass


@pytest.mark.parametrize(
    "point", [Rounding("int4-row"), LayerOff(0), Erasure({1: Subspace(torch.eye(32)[:, :4], torch.zeros(32))})], ids=str
)
def test_a_compiled_model_is_there_too(point, tiny_llama, make_batch):
    torch._dynamo.reset()
    model, batch = tiny_llama(), make_batch(2)
    options = {"layer_by_layer": isinstance(point, Rounding)}
    with torch.no_grad():
        here = logits(model, batch)
        with point.at(model, **options):
            there = logits(model, batch)
        model.compile(backend="eager")
        logits(model, batch)
        with point.at(model, **options):
            assert torch.equal(logits(model, batch), there)
        assert torch.equal(logits(model, batch), here)
    assert not torch.equal(here, there)
