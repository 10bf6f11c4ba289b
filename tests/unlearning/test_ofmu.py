"""OFMU: both kinds of update by hand on quadratics, the rounds, and the cosine's gradient by autograd."""

from __future__ import annotations

import pytest
import torch

from remanent.core.method import UpdateView
from remanent.core.passes import learning_passes
from remanent.errors import InputError
from remanent.unlearning.ofmu import Rounds, cosine_slopes, method

A = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
B = torch.tensor([[1.0, -0.3], [-0.3, 3.0]])


def combined(rounds, x, step, steps=12):
    """The gradient of an update at x, L_f = x^T A x / 2 and L_r = x^T B x / 2: the forget term is -L_f."""
    hessians = {"forget": -A, "retain": B}

    def times_hessian(vectors):
        return {"x": sum(hessians[term] @ vector["x"] for term, vector in vectors.items())}

    view = UpdateView(step, steps, dict, times_hessian)
    return rounds.within(view)({("forget", "full"): {"x": -A @ x}, ("retain", "full"): {"x": B @ x}})["x"]


X = torch.tensor([1.0, -2.0])


def test_the_outer_update_by_hand():
    # 2 rho_k A (A x): A x = (1, -1.5), A A x = (1.25, -1); B x = (1.6, -6.3).
    found = combined(Rounds(inner=2, rho=0.5, growth=2.0), X, 3)
    torch.testing.assert_close(found, torch.tensor([1.6 + 1.25, -6.3 - 1.0]))
    second = combined(Rounds(inner=2, rho=0.5, growth=2.0), X, 6)
    torch.testing.assert_close(second, torch.tensor([1.6 + 2.5, -6.3 - 2.0]))


def test_the_outer_update_is_the_gradient_of_its_objective():
    x = X.clone().requires_grad_()
    (x @ B @ x / 2 + 0.3 * (A @ x).square().sum()).backward()
    torch.testing.assert_close(combined(Rounds(inner=1, rho=0.3), X, 2), x.grad)


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_the_inner_update_descends_minus_phi(beta):
    """Where the bound on the cosine's gradient does not bind."""
    x = X.clone().requires_grad_()
    forget, retain = A @ x, B @ x
    phi = x @ A @ x / 2 - beta * torch.nn.functional.cosine_similarity(forget, retain, dim=0)
    (-phi).backward()
    torch.testing.assert_close(combined(Rounds(inner=2, beta=beta), X, 1), x.grad)


def test_near_a_minimum_the_cosine_is_bounded_by_the_forget_gradient():
    near = 1e-4 * X
    ascent = combined(Rounds(beta=0.0), near, 1)
    found = combined(Rounds(beta=0.5), near, 1)
    torch.testing.assert_close((found - ascent).norm(), 0.5 * ascent.norm())


def test_rounds_end_in_an_update_that_keeps_and_so_does_the_run():
    rounds = Rounds(inner=2, beta=0.0, rho=0.0)
    kept = [bool(torch.equal(combined(rounds, X, step, 8), B @ X)) for step in range(1, 9)]
    assert kept == [False, False, True, False, False, True, False, True]


def test_a_budget_counts_a_product_with_a_hessian_as_two_passes():
    assert learning_passes(method(), 6) == {"forget": 5 * 3 + 3, "retain": 5 * 3 + 1}
    assert learning_passes(method(beta=0.0, rho=0.0), 6) == {"forget": 6, "retain": 6}
    assert learning_passes(method(inner=2), 4) == {"forget": 2 * 3 + 3 + 3, "retain": 2 * 3 + 1 + 1}


def test_the_slopes_are_the_gradients_of_the_cosine_over_all_weights():
    torch.manual_seed(0)
    left, right = ({"a": torch.randn(3, 2), "b": torch.randn(4)} for _ in range(2))
    flat = [torch.cat([part.flatten() for part in side.values()]).requires_grad_() for side in (left, right)]
    torch.nn.functional.cosine_similarity(*flat, dim=0).backward()
    for slope, by_autograd in zip(cosine_slopes(left, right), flat, strict=True):
        torch.testing.assert_close(torch.cat([part.flatten() for part in slope.values()]), by_autograd.grad)


def test_a_gradient_of_0_has_no_direction():
    still = UpdateView(1, 12, dict, lambda vectors: pytest.fail("nothing to ask"))
    gradients = {("forget", "full"): {"x": -A @ X}, ("retain", "full"): {"x": torch.zeros(2)}}
    torch.testing.assert_close(Rounds().within(still)(gradients)["x"], -A @ X)
    assert Rounds().within(still)({}) == {}


@pytest.mark.parametrize(("name", "value"), [("inner", 0), ("beta", -1.0), ("rho", float("nan")), ("growth", 0.5)])
def test_bad_values_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        method(**{name: value})
