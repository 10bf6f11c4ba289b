"""A combination asks an update for its step, the optimizer's scales, and the Hessian of its terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.func import functional_call

from remanent.core.combine import added_up, by_term
from remanent.core.displacement import Here, Rounding
from remanent.core.method import At, Method
from remanent.core.scores import answer_scores
from remanent.core.update import Update
from remanent.errors import UnsupportedError
from remanent.unlearning.grad_diff import GradDiff


@dataclass(frozen=True)
class Asking:
    """Adds up, and keeps what it was told."""

    vectors: dict[str, Any] = field(default_factory=dict)
    told: list[Any] = field(default_factory=list)

    def within(self, update):
        def combined(gradients):
            product = update.times_hessian(self.vectors) if self.vectors else {}
            self.told.append((update.step, update.steps, update.scales(), product, by_term(gradients)))
            return added_up(gradients.values())

        return combined

    def products(self, step, steps):
        return tuple(self.vectors)


WEIGHTS = {"forget": 0.5, "retain": 2.0}


def updated(model, asking, batches, *, micro_batch=None, points=(), calls=1):
    method = Method(GradDiff(), points=points or [Here()], weights=WEIGHTS, combine=asking)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    update = Update(model, method, optimizer, steps=4, micro_batch=micro_batch)
    for _ in range(calls):
        update(batches)
    return asking.told


@pytest.fixture
def batches(make_batch):
    return {"forget": make_batch(4, seed=1), "retain": make_batch(5, seed=2)}


def directions(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(weight.shape, generator=generator) for name, weight in model.named_parameters()}


def test_it_is_told_the_step_and_the_scales_of_the_optimizer_as_it_was_before(tiny_llama, batches):
    told = updated(tiny_llama(), Asking(), batches, calls=2)
    assert [(step, steps) for step, steps, *_ in told] == [(1, 4), (2, 4)]
    assert told[0][2] == {}
    assert set(told[1][2]) == {name for name, _ in tiny_llama().named_parameters()}


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_hessian_is_that_of_finite_differences_of_gradients(tiny_llama, batches, micro_batch):
    model = tiny_llama()
    vectors = {"forget": directions(model), "retain": directions(model, 1)}
    product = updated(model, Asking(vectors), batches, micro_batch=micro_batch)[0][3]
    model = tiny_llama(dtype=torch.float64)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def gradient(term, sign, size):
        moved = {name: (value + size * vectors[term][name].double()).requires_grad_() for name, value in start.items()}

        def forward(**inputs):
            return functional_call(model, moved, kwargs=inputs)

        signed = sign * WEIGHTS[term] * log_probs(forward, batches[term]).mean()
        return dict(zip(moved, torch.autograd.grad(signed, list(moved.values())), strict=True))

    expected = {name: torch.zeros_like(value) for name, value in start.items()}
    for term, sign in (("forget", 1.0), ("retain", -1.0)):
        above, below = gradient(term, sign, 1e-5), gradient(term, sign, -1e-5)
        for name in expected:
            expected[name] += (above[name] - below[name]) / 2e-5
    for name, value in expected.items():
        torch.testing.assert_close(product[name].double(), value, rtol=2e-3, atol=2e-3 * float(value.abs().max()))


def log_probs(forward, batch):
    logits = forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    labels = batch.labels[:, 1:]
    asked = labels != -100
    return logits[asked].log_softmax(dim=-1).gather(1, labels[asked][:, None])


def test_asking_changes_nothing_of_the_update(tiny_llama, batches, snapshot, same_bits):
    model, asked = tiny_llama(dropout=0.2).train(), tiny_llama(dropout=0.2).train()
    for one, asking in ((model, Asking()), (asked, Asking({"forget": directions(model)}))):
        torch.manual_seed(5)
        updated(one, asking, batches, calls=2)
    assert same_bits(snapshot(model), snapshot(asked))


def test_the_hessian_is_of_the_loss_with_the_dropout_that_its_gradient_had(tiny_llama, batches):
    """Along the weights that make the logits alone the loss of a mask is smooth; another mask would show."""
    model = tiny_llama(dropout=0.5, tied=False).train()
    vectors = {term: {"lm_head.weight": directions(model)["lm_head.weight"]} for term in ("retain", "forget")}
    found = {}
    for term, vector in vectors.items():
        model = tiny_llama(dropout=0.5, tied=False).train()
        torch.manual_seed(7)
        (_, _, _, product, here) = updated(model, Asking({term: vector}), batches)[0]
        model = tiny_llama(dropout=0.5, tied=False).train()
        with torch.no_grad():
            model.lm_head.weight += 1e-3 * vector["lm_head.weight"]
        torch.manual_seed(7)
        there = updated(model, Asking(), batches)[0][4]
        found[term] = product["lm_head.weight"], (there[term]["lm_head.weight"] - here[term]["lm_head.weight"]) / 1e-3
    for product, difference in found.values():
        assert float(torch.nn.functional.cosine_similarity(product.flatten(), difference.flatten(), dim=0)) > 0.999


def test_points_that_move_the_weights_have_none(tiny_llama, batches):
    model = tiny_llama()
    points = [Here(), At(Rounding("int8"))]
    with pytest.raises(UnsupportedError, match="Hessian"):
        updated(model, Asking({"forget": directions(model)}), batches, points=points)


def test_scores_are_those_of_the_hand_written_loss(tiny_llama, batches):
    model = tiny_llama()
    ours = answer_scores(model, batches["forget"]).log_probs
    torch.testing.assert_close(ours, log_probs(model, batches["forget"])[:, 0])
