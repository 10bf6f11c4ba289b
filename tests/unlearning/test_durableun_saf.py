"""DurableUn-SAF against its formula, written out with an explicit straight-through estimator."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from remanent.core.quantization import QuantizationFormat, round_to
from remanent.core.selection import LINEARS
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.durableun_saf import method


def token_mean(model, parameters, batch):
    logits = functional_call(
        model, parameters, (), {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    ).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100)


def formula(model, forget, retain, alpha, alpha_max, rounding, quantize_retain):
    """-L_f(w) - alpha L_f(Q(w)) + lambda L_r(w), lambda = max(1, alpha_max + 1); and ours: + alpha lambda L_r(Q(w))."""
    here = dict(model.named_parameters())
    linear = set(LINEARS.of(Weights.of(model)))
    format = QuantizationFormat.parse(rounding)
    there = {n: w + (round_to(w.detach(), format) - w).detach() if n in linear else w for n, w in here.items()}
    strength = max(1.0, alpha_max + 1)
    loss = -token_mean(model, here, forget) + strength * token_mean(model, here, retain)
    loss = loss - alpha * token_mean(model, there, forget)
    if quantize_retain:
        loss = loss + alpha * strength * token_mean(model, there, retain)
    return dict(zip(here, torch.autograd.grad(loss, list(here.values())), strict=True))


@pytest.mark.parametrize("quantize_retain", [False, True])
@pytest.mark.parametrize(("alpha", "rounding"), [(3.0, "int4-row"), (1.0, "int4-g32")])
@pytest.mark.parametrize(("step", "share"), [(2, 0.0), (3, 0.0), (5, 2 * 2 / 6), (7, 1.0), (9, 1.0)])
def test_the_gradient_is_the_formulas(step, share, alpha, rounding, quantize_retain, tiny_llama, make_batch):
    """A run of 9: alpha is 0 for 3 updates, then 2 alpha (t - 3) / 6, at most alpha."""
    model = tiny_llama()
    batches = {"forget": make_batch(3, seed=1), "retain": make_batch(4, seed=2)}
    saf = method(alpha=alpha, rounding=rounding, quantize_retain=quantize_retain)
    update = Update(model, saf, torch.optim.SGD(model.parameters(), lr=0.0), steps=9, micro_batch=2)
    update.step = step - 1
    update.gradients(batches)
    expected = formula(model, batches["forget"], batches["retain"], share * alpha, alpha, rounding, quantize_retain)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_lambda_is_alpha_plus_1_and_at_least_1():
    for alpha, strength in ((3.0, 4.0), (1.0, 2.0), (0.0, 1.0)):
        assert method(alpha=alpha).weights == {"retain": strength}


def test_what_is_taken_where():
    assert [place.terms for place in method().places] == [None, ("forget",)]
    assert method(quantize_retain=True).places[1].terms == ("forget", "retain")


def test_alpha_0_is_gradient_difference(tiny_llama, make_batch):
    from remanent.unlearning.grad_diff import method as grad_diff

    batches = {"forget": make_batch(3, seed=1), "retain": make_batch(4, seed=2)}
    found = []
    for chosen in (method(alpha=0.0), grad_diff()):
        model = tiny_llama()
        Update(model, chosen, torch.optim.SGD(model.parameters(), lr=0.0), steps=2)(batches)
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@pytest.mark.parametrize(("name", "value"), [("alpha", -1.0), ("warmup", 1.0)])
def test_bad_values(name, value):
    with pytest.raises(InputError, match=f"^{name}"):
        method(**{name: value})
