from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from remanent.designs import CMAES, IGNITE, REINFORCE, SEARCHES, BOqEI, COMs, GradientAscent, RoMA, propose
from remanent.designs.coms import ConservativeLoss
from remanent.designs.gradient_ascent import ascend
from remanent.designs.problem import Problem
from remanent.designs.surrogate import PLAIN, Recipe, Surrogate, Surrogates, fit, log_losses, own_loss
from remanent.errors import DivergedError, InputError, MissingExtraError

LINEAR = Recipe(hidden=(), gaussian=False)
SMALL = Recipe(hidden=(32,), gaussian=False, epochs=15, batch_size=32, learning_rate=0.01)
MANY = replace(SMALL, members=2, bootstrap=True)
GAUSSIAN = Recipe(hidden=(16, 16), activation="softplus", epochs=20, batch_size=32, learning_rate=0.01)
SMALL_SEARCHES = {
    "gradient-ascent": GradientAscent(SMALL, steps=20),
    "coms": COMs(replace(SMALL, epochs=5), steps=10),
    "roma": RoMA(replace(GAUSSIAN, epochs=5), inner_steps=2, updates=12, rate=0.05),
    "bo-qei": BOqEI(MANY, known=40, batch_size=4, rounds=2, samples=16, restarts=1, raw_samples=8, iterations=10),
    "cma-es": CMAES(MANY, generations=8),
    "reinforce": REINFORCE(MANY, batch_size=128, steps=40, rate=0.05),
}


def slope(seed=0, records=120, inputs=4):
    """Designs in a ball, whose score rises along the first number; the best known lie at its edge."""
    generator = torch.Generator().manual_seed(seed)
    designs = torch.randn(records, inputs, generator=generator, dtype=torch.float64)
    return designs * 3 + 5, 2 * designs[:, 0] - 0.1 * (designs[:, 1:] ** 2).sum(dim=1)


def linear(slopes):
    model = Surrogate(len(slopes), LINEAR, torch.Generator())
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([slopes]))
    return model


def test_ascent_by_hand():
    """h = x1 - 2 x2: each step is 0.1 * sqrt(2) * (1, -2)."""
    found = ascend(linear([1.0, -2.0]), torch.zeros(1, 2), steps=3, step_size=0.1)
    assert torch.allclose(found, 0.3 * math.sqrt(2) * torch.tensor([[1.0, -2.0]]))
    assert not found.requires_grad


def test_several_surrogates_are_a_mean_or_the_smallest():
    members, inputs = [linear([1.0]), linear([3.0])], torch.tensor([[2.0], [-1.0]])
    assert Surrogates(members)(inputs).tolist() == [4.0, -2.0]
    assert Surrogates(members, pessimistic=True)(inputs).tolist() == [2.0, -3.0]
    assert Surrogates(members).gradient_norm(inputs) == pytest.approx(math.sqrt(0.5**2 + 1))


def test_the_log_likelihood_by_hand():
    model = Surrogate(1, Recipe(hidden=()), torch.Generator())
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[2.0], [0.0]]))
        model.layers[0].bias[1] = -50.0  # far below both bounds
    mean, deviation = model.distribution(torch.ones(1, 1))
    assert mean.item() == 2
    # log std = least + softplus(most' - least), most' = most - softplus(most + 50), about -50
    assert deviation.item() == pytest.approx(0.1, rel=1e-5)
    wanted = 0.5 * ((3 - 2) / 0.1) ** 2 + math.log(0.1) + 0.5 * math.log(2 * math.pi)
    assert log_losses(model, torch.ones(1, 1), torch.tensor([3.0])).item() == pytest.approx(wanted, rel=1e-4)


def test_the_conservative_loss_by_hand():
    """h = 2x; x' = x + 2 * 0.25 * 2 = x + 1, so the overestimation is 2 everywhere."""
    model = linear([2.0])
    loss = ConservativeLoss(COMs(LINEAR, steps=2, step_size=0.25, alpha=0.1, alpha_rate=0.01, limit=0.5))
    inputs = torch.tensor([[1.0], [3.0]])
    value = loss(model, inputs, torch.tensor([1.0, 6.0]), torch.ones(2))
    assert value.item() == pytest.approx(((2 - 1) ** 2 + 0) / 2 + 0.1 * 2)
    # d/dw: mean 2 (wx - y) x = (2 * 1 * 1 + 0) / 2; and alpha * mean (x' - x) = 0.1 * 1
    assert float(model.layers[0].weight.grad) == pytest.approx(1.0 + 0.1)
    # d/dlog alpha of alpha (0.5 - 2) < 0, so Adam's first step raises log alpha by its rate
    assert float(loss.log_alpha) == pytest.approx(math.log(0.1) + 0.01, abs=1e-6)


def test_alpha_rests_at_the_limit():
    """Above it alpha rises, below it falls."""
    for height, sign in ((2.0, 1), (0.1, -1)):
        loss = ConservativeLoss(COMs(LINEAR, steps=1, step_size=1.0, limit=0.5))
        loss(linear([height]), torch.ones(2, 1), torch.zeros(2), torch.ones(2))
        assert math.copysign(1, float(loss.log_alpha) - math.log(0.1)) == sign


def test_coms_promise_less_where_the_search_ends():
    designs, scores = slope()
    problem = Problem.of(designs, scores)
    promised = {}
    for alpha in (1e-6, 2.0):
        search = COMs(SMALL, steps=10, step_size=0.1, alpha=alpha, alpha_rate=0.0)
        members = fit(problem.inputs, problem.scores, search.recipe, seed=0, losses=search.loss)
        found = search.search(members, problem, 16, torch.Generator())
        with torch.no_grad():
            promised[alpha] = float(Surrogates(members)(found).mean() - Surrogates(members)(problem.best(16)).mean())
    assert promised[2.0] < 0.7 * promised[1e-6]


def test_roma_trains_where_the_likelihood_is_worse_and_leaves_the_weights():
    designs, scores = slope()
    problem = Problem.of(designs, scores)
    model = Surrogate(4, GAUSSIAN, torch.Generator().manual_seed(0))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    ones, losses = torch.ones(len(problem.scores)), {}
    for rate in (0.0, 0.05):
        search = RoMA(GAUSSIAN, noise=0.0, inner_steps=5, inner_rate=rate)
        model.zero_grad()
        loss = search.loss(torch.Generator())(model, problem.inputs, problem.scores, ones)
        losses[rate] = float(loss)
        assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
        assert all(float(weight.grad.norm()) <= 1 + 1e-5 for weight in model.parameters())
    plain = float(log_losses(model, problem.inputs, problem.scores).mean())
    assert losses[0.0] == pytest.approx(plain, rel=1e-6)
    assert losses[0.05] > plain


def test_roma_smooths_the_surrogate_at_the_candidates():
    """What the search adapts has a smaller slope there than what was trained."""
    designs, scores = slope()
    problem, search = Problem.of(designs, scores), RoMA(GAUSSIAN, inner_steps=20, inner_rate=0.2)
    (trained,) = fit(problem.inputs, problem.scores, GAUSSIAN, seed=0, losses=lambda _: own_loss(GAUSSIAN))
    inputs = problem.best(8).requires_grad_()
    adapted = search._adapted(trained, inputs, trained(inputs).detach())

    def steepness(model):
        return float(torch.autograd.grad(model(inputs).sum(), inputs)[0].norm(dim=1).mean())

    assert steepness(adapted) < 0.9 * steepness(trained)


def test_reinforce_moves_categories_too():
    """Two categories of three; the surrogate likes the last of the first and the first of the second."""
    generator = torch.Generator().manual_seed(0)
    blocks = (slice(0, 3), slice(3, 6))
    picked = torch.randint(0, 3, (200, 2), generator=generator)
    designs = torch.nn.functional.one_hot(picked, 3).double().flatten(1)
    scores = picked[:, 0].double() - picked[:, 1].double() + 0.01 * torch.randn(200, generator=generator).double()
    problem = Problem.of(designs, scores, blocks)
    found = REINFORCE(LINEAR, batch_size=256, steps=100, rate=0.1).search(
        [linear([-1.0, 0.0, 1.0, 1.0, 0.0, -1.0])], problem, 64, torch.Generator().manual_seed(1)
    )
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert (found[:, :3].sum(dim=1) == 1).all()
    assert found[:, 2].mean() > 0.9
    assert found[:, 3].mean() > 0.9


@pytest.mark.parametrize("name", sorted(SMALL_SEARCHES))
def test_every_search_finds_better_designs_and_finds_them_again(name):
    designs, scores = slope()
    regularizer = partial(IGNITE, coefficient=0.01, eta=0.0, rho=0.2)
    found = propose(designs, scores, SMALL_SEARCHES[name], count=8, seed=1, regularizer=regularizer)
    assert found.designs.shape == (8, 4)
    unit = (found.designs - 5) / 3
    true = 2 * unit[:, 0] - 0.1 * (unit[:, 1:] ** 2).sum(dim=1)
    assert float(true.max()) > float(scores.topk(8).values.mean())
    assert found.promised.tolist() == sorted(found.promised.tolist(), reverse=True)
    assert found.gradient_norm > 0
    again = propose(designs, scores, SMALL_SEARCHES[name], count=8, seed=1, regularizer=regularizer)
    assert torch.equal(again.designs, found.designs)


@pytest.mark.parametrize("name", ["cma-es", "bo-qei", "reinforce"])
def test_a_search_leaves_the_global_generators_alone(name):
    designs, scores = slope()
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    propose(designs, scores, SMALL_SEARCHES[name], count=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_the_plain_surrogate_is_that_of_coefficient_0_bit_for_bit():
    designs, scores = slope()
    problem = Problem.of(designs, scores)
    made = [
        fit(problem.inputs, problem.scores, SMALL, seed=0, losses=lambda _: own_loss(SMALL), regularizer=regularizer)
        for regularizer in (PLAIN, partial(IGNITE, coefficient=0.0, eta=0.0, rho=7.0))
    ]
    for one, other in zip(made[0][0].parameters(), made[1][0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_bootstraps_differ_and_their_weights_add_up():
    designs, scores = slope()
    problem, seen = Problem.of(designs, scores), []

    def spy(generator):
        def loss(surrogate, inputs, scores, weights):
            seen.append(weights)
            return own_loss(MANY)(surrogate, inputs, scores, weights)

        return loss

    fit(problem.inputs, problem.scores, replace(MANY, epochs=1), seed=0, losses=spy)
    halves = torch.cat(seen).split(len(scores))
    assert [float(half.sum()) for half in halves] == [len(scores)] * 2
    assert halves[0].sort().values.tolist() != [1.0] * len(scores)


@pytest.mark.parametrize(("name", "package"), [("cma-es", "cma"), ("bo-qei", "botorch")])
def test_a_missing_package_names_the_extra(name, package, monkeypatch):
    for module in [item for item in sys.modules if item.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"remanent\[designs\]"):
        SEARCHES[name]()


def test_a_problem_is_normalized_and_turned_back():
    designs = torch.tensor([[1.0, 7.0, 1.0, 0.0], [3.0, 7.0, 0.0, 1.0]])
    problem = Problem.of(designs, torch.tensor([2.0, 4.0]), [slice(2, 4)])
    assert problem.inputs.tolist() == [[-1, 1, 0], [1, 0, 1]]
    assert problem.blocks == (slice(1, 3),)
    assert problem.scores.tolist() == [-1, 1]
    assert torch.equal(problem.designs(problem.inputs), designs.double())
    assert problem.designs(torch.tensor([[2.0, 0.4, 0.3]])).tolist() == [[4.0, 7.0, 1.0, 0.0]]
    assert problem.outside(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]])).tolist() == [1, 0]
    assert problem.best(1).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("name", sorted(SMALL_SEARCHES))
def test_what_never_changes_is_not_searched(name):
    """Neither a number nor a category of one value; 0.1 is one that a mean does not give back."""
    designs, scores = slope()
    constant = torch.tensor([0.1, 1.0], dtype=torch.float64).expand(len(designs), 2)
    wide = torch.cat([designs[:, :2], constant, designs[:, 2:]], dim=1)
    plain = propose(designs, scores, SMALL_SEARCHES[name], count=4)
    found = propose(wide, scores, SMALL_SEARCHES[name], count=4, blocks=[slice(3, 4)])
    assert torch.equal(found.designs[:, 2:4], constant[:4])
    assert torch.equal(found.designs[:, [0, 1, 4, 5]], plain.designs)
    assert torch.equal(found.outside, plain.outside)


@pytest.mark.parametrize(
    ("designs", "scores", "field"),
    [
        (torch.ones(3, 2), torch.ones(4), "designs"),
        (torch.ones(1, 2), torch.ones(1), "designs"),
        (torch.full((3, 2), float("nan")), torch.arange(3.0), "designs"),
        (torch.ones(3, 2), torch.tensor([1.0, 2.0, float("inf")]), "scores"),
        (torch.ones(3, 2), torch.ones(3), "scores"),
        (torch.arange(6.0).reshape(3, 2), torch.full((3,), 0.1, dtype=torch.float64), "scores"),
        (torch.full((3, 2), 0.1), torch.arange(3.0), "designs"),
    ],
)
def test_bad_problems_are_named(designs, scores, field):
    with pytest.raises(InputError, match=field):
        Problem.of(designs, scores)


def test_bad_settings_are_named():
    designs, scores = slope()
    with pytest.raises(InputError, match="count"):
        propose(designs, scores, SMALL_SEARCHES["gradient-ascent"], count=121)
    with pytest.raises(InputError, match="recipe"):
        RoMA(MANY)
    with pytest.raises(InputError, match="at least 2 inputs"):
        propose(designs[:, :1], scores, SMALL_SEARCHES["cma-es"], count=4, on_epoch=lambda *_: pytest.fail("trained"))
    for alpha in (0.0, -1.0, math.inf):
        with pytest.raises(InputError, match="alpha"):
            COMs(alpha=alpha)
    with pytest.raises(DivergedError):
        propose(designs, scores, GradientAscent(replace(SMALL, learning_rate=1e30, epochs=3)), count=4)
