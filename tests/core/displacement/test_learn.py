"""Learn: the gradient at another point, for use here."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from remanent.core.displacement import Context, Here, Interpolation, Noise, Rounding, Then, gradient_at
from remanent.core.displacement.base import learning_at
from remanent.core.quantization import QuantizationFormat, clipped, round_to
from remanent.core.selection import LINEARS
from remanent.core.weights import Weights

INT4 = QuantizationFormat.parse("int4-row")


def straight_through(model, batch, format, mask=False):
    """Gradients of the mean loss with every linear weight W replaced by W + (Q(W) - W).detach()."""
    linear = set(LINEARS.of(Weights.of(model)))
    parameters = {}
    for name, parameter in model.named_parameters():
        value = parameter
        if name in linear:
            kept = torch.where(clipped(parameter, format), parameter.detach(), parameter) if mask else parameter
            value = kept + (round_to(parameter.detach(), format) - kept).detach()
        parameters[name] = value
    logits = functional_call(
        model, parameters, (), {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    ).logits
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss, {name: g for (name, _), g in zip(model.named_parameters(), gradients, strict=True)}


def assert_equal_gradients(found, expected):
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["plain", "reentrant", "not-reentrant"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["int4-row", "int2-row-p90"])
def test_straight_through_gradient_is_right_also_under_gradient_checkpointing(
    name, tied, checkpointing, tiny_llama, make_batch, mean_loss
):
    model, batch, format = tiny_llama(tied=tied), make_batch(4), QuantizationFormat.parse(name)
    loss, expected = straight_through(model, batch, format, mask=format.clips)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.train()  # transformers checkpoints in train mode only; there is no dropout in this model

    def closure():
        value = mean_loss(model, batch)
        value.backward()
        return value

    found = gradient_at(Rounding(name), Weights.of(model), closure)
    torch.testing.assert_close(found.loss, loss.detach())
    assert_equal_gradients(found.gradients, expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    with learning_at(Rounding(name), Weights.of(model), Context(model)):
        closure()
    assert_equal_gradients({name: p.grad for name, p in model.named_parameters()}, expected)


def test_learning_here_is_the_plain_gradient_bit_for_bit(tiny_llama, make_batch, mean_loss):
    model, batch = tiny_llama(), make_batch(4)
    mean_loss(model, batch).backward()
    plain = {name: parameter.grad for name, parameter in model.named_parameters()}
    kept = dict(plain)

    def closure():
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    found = gradient_at(Here(), Weights.of(model), closure)
    assert all(torch.equal(found.gradients[name], gradient) for name, gradient in plain.items())
    assert all(parameter.grad is kept[name] for name, parameter in model.named_parameters())
    assert not found.loss.requires_grad


def linear_model():
    """f(w) = sum(c * w): the gradient is c wherever it is taken, so that only the pullback shows."""
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[8.0, 1.0, 2.0, 3.0]]))
    return model, torch.tensor([1.0, 10.0, 100.0, 1000.0])


def learned(displacement, model, inputs, **options):
    def closure():
        loss = model(inputs).sum()
        loss.backward()
        return loss

    return gradient_at(displacement, Weights.of(model), closure, **options).gradients["weight"][0].tolist()


def test_interpolation_scales_the_gradient():
    model, inputs = linear_model()
    assert learned(Interpolation({"weight": torch.zeros(1, 4)}, 0.75), model, inputs) == [0.25, 2.5, 25.0, 250.0]


def test_a_clipped_rounding_masks_what_it_cuts_off_and_nothing_else():
    model, inputs = linear_model()
    # The 50th percentile of |w| lies between 2 and 3, so that 8 and 3 are cut off.
    cut = clipped(model.weight.detach(), QuantizationFormat.parse("int4-row-p50"))[0].tolist()
    assert cut == [True, False, False, True]
    assert learned(Rounding("int4-row-p50"), model, inputs) == [0.0, 10.0, 100.0, 0.0]
    assert learned(Rounding("int4-row"), model, inputs) == [1.0, 10.0, 100.0, 1000.0]


def test_weights_that_a_clipped_rounding_does_not_move_keep_their_gradient(tiny_llama, make_batch, mean_loss):
    model, batch = tiny_llama(tied=False), make_batch(4)

    def closure():
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    unmoved = [name for name in Weights.of(model) if name not in LINEARS.of(Weights.of(model))]
    assert "lm_head.weight" in unmoved
    format = QuantizationFormat.parse("int8-row-p50")
    _, expected = straight_through(model, batch, format, mask=True)
    found = gradient_at(Rounding(format), Weights.of(model), closure).gradients
    for name in unmoved:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    # A mask would have cut half of it off.
    assert int((found["lm_head.weight"] == 0).sum()) <= int((expected["lm_head.weight"] == 0).sum())


def test_then_composes_pullbacks_from_the_last_to_the_first():
    model, inputs = linear_model()
    half = Interpolation({"weight": torch.tensor([[0.0, 7.0, 0.0, 0.0]])}, 0.5)
    # From (8, 1, 2, 3) half way to (0, 7, 0, 0) is (4, 4, 1, 1.5): there the median cuts off 4 and 4.
    assert learned(Then(half, Rounding("int4-row-p50")), model, inputs) == [0.0, 0.0, 50.0, 500.0]
    # Rounded first, the weights here decide: 8 and 3 are cut off.
    assert learned(Then(Rounding("int4-row-p50"), half), model, inputs) == [0.0, 5.0, 50.0, 0.0]


def test_then_pulls_back_by_each_only_what_each_moves(tiny_llama, make_batch, mean_loss):
    model, batch = tiny_llama(tied=False), make_batch(4)
    names = list(LINEARS.of(Weights.of(model)))
    part = Then(Noise(0.0), Rounding("int2-row-p50"))  # the noise moves everything, the rounding linears only

    def closure():
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    alone = gradient_at(Rounding("int2-row-p50"), Weights.of(model), closure).gradients
    both = gradient_at(part, Weights.of(model), closure).gradients
    assert names
    assert all(torch.equal(alone[name], both[name]) for name in alone)


def test_a_selection_may_learn_and_nothing_else_is_touched(tiny_llama, make_batch, mean_loss, snapshot, same_bits):
    model, batch = tiny_llama(tied=False), make_batch(3)
    part = Weights.of(model).only(["model.layers.0.mlp.up_proj.weight"])
    before = snapshot(model)

    def closure():
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    for displacement in (Rounding("int4"), Then(Noise(0.1), Rounding("int4"))):
        found = gradient_at(displacement, part, closure)
        assert list(found.gradients) == ["model.layers.0.mlp.up_proj.weight"]
        assert same_bits(snapshot(model), before)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_learning_draws_other_dropout_at_each_call(tiny_gpt2, make_batch, mean_loss):
    model, batch = tiny_gpt2(dropout=0.3).train(), make_batch(4)

    def closure():
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    for displacement in (Here(), Rounding("int8"), Noise(0.01)):
        torch.manual_seed(0)
        first, second = (gradient_at(displacement, Weights.of(model), closure).loss for _ in range(2))
        assert first != second
        torch.manual_seed(0)
        assert gradient_at(displacement, Weights.of(model), closure).loss == first


def test_learning_here_updates_running_statistics_and_learning_elsewhere_does_not():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def closure():
        loss = model(torch.randn(8, 3)).square().sum()
        loss.backward()
        return loss

    before = model[1].running_mean.clone()
    gradient_at(Noise(0.5), Weights.of(model), closure)
    assert torch.equal(model[1].running_mean, before)
    gradient_at(Here(), Weights.of(model), closure)
    assert not torch.equal(model[1].running_mean, before)


def test_param_groups_are_as_good_as_a_model(tiny_llama, make_batch, mean_loss):
    model, batch = tiny_llama(), make_batch(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = Weights.of(optimizer.param_groups)

    def closure():
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    found = gradient_at(Noise(0.0), weights, closure)
    closure()
    assert all(torch.equal(found.gradients[name], tensor.grad) for name, tensor in weights.items())
