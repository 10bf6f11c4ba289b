"""The probe is scikit-learn's, by its formula and by its own figures; its direction is among the states as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remanent.core.probe import Scaler, fit_network, fit_probe
from remanent.errors import InputError


def rows(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, width, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 5, width)
    positive = torch.arange(count) % 2 == 0
    states[positive, 0] += 0.1
    return states + 3, positive


def test_two_rows_by_hand():
    """Rows at -1 and 1: w = C * 2 * sigmoid(-w), and no bias."""
    probe = fit_probe(torch.tensor([[3.0], [7.0]]), torch.tensor([False, True]), strength=0.5)
    assert probe.scaler.mean.tolist() == [5.0]
    assert probe.scaler.scale.tolist() == [2.0]
    weight = float(probe.weights)
    assert weight == pytest.approx(2 * 0.5 / (1 + np.exp(weight)), rel=1e-9)
    assert probe.bias == pytest.approx(0, abs=1e-9)
    assert probe.scores(torch.tensor([[7.0]])).item() == pytest.approx(weight)


@pytest.mark.parametrize(("count", "width"), [(40, 6), (12, 50)], ids=["more rows", "more coordinates"])
@pytest.mark.parametrize("strength", [0.01, 1.0, 10.0])
def test_it_is_that_of_scikit_learn(count, width, strength):
    linear = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    states, positive = rows(count, width)
    probe = fit_probe(states, positive, strength)
    scaled = preprocessing.StandardScaler().fit_transform(states)
    theirs = linear.LogisticRegression(C=strength, max_iter=10_000, tol=1e-10).fit(scaled, positive)
    assert probe.weights.tolist() == pytest.approx(theirs.coef_[0].tolist(), abs=2e-5)
    assert probe.bias == pytest.approx(theirs.intercept_[0], abs=2e-5)


def test_the_direction_is_among_the_states_as_they_are():
    states, positive = rows(40, 6)
    probe = fit_probe(states, positive)
    assert float(probe.direction.norm()) == pytest.approx(1)
    moved = states + probe.direction  # scores rise by the same everywhere, and by no other step of that length as much
    rise = probe.scores(moved) - probe.scores(states)
    assert rise.tolist() == pytest.approx([float((probe.weights / probe.scaler.scale).norm())] * 40)


def test_a_coordinate_that_never_changes_is_no_division_by_0():
    states, positive = rows(10, 3)
    states[:, 1] = 4.0
    assert Scaler.of(states).scale[1] == 1
    assert fit_probe(states, positive).weights[1] == pytest.approx(0, abs=1e-12)


def test_a_coordinate_that_changes_by_a_rounding_error_tells_nothing():
    states, positive = rows(20, 3)
    states[:, 1] = torch.where(positive, 1e6, 1e6 * (1 + 1e-15))
    assert Scaler.of(states).scale[1] == 1
    assert abs(float(fit_probe(states, positive).weights[1])) < 1e-6


def test_a_network_sees_what_no_line_divides():
    """Both of one sign against one of each: a linear probe has nothing, on rows that neither was fitted on."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(400, 2, generator=generator)
    positive = (states[:, 0] > 0) == (states[:, 1] > 0)
    for fit, low, high in ((fit_probe, 0.35, 0.65), (fit_network, 0.9, 1.0)):
        right = (fit(states[:200], positive[:200]).scores(states[200:]) > 0) == positive[200:]
        assert low <= float(right.double().mean()) <= high


def test_a_network_is_the_same_each_time_and_by_its_seed():
    states, positive = rows(20, 3)
    torch.manual_seed(1)
    first = fit_network(states, positive, (4, 3)).scores(states)
    torch.manual_seed(2)
    assert torch.equal(fit_network(states, positive, (4, 3)).scores(states), first)
    assert not torch.equal(fit_network(states, positive, (4, 3), seed=1).scores(states), first)
    with pytest.raises(InputError, match="hidden"):
        fit_network(states, positive, ())


def test_what_is_wrong_is_named():
    states, positive = rows(10, 3)
    with pytest.raises(InputError, match="rows of both kinds"):
        fit_probe(states, torch.ones(10, dtype=torch.bool))
    with pytest.raises(InputError, match="strength"):
        fit_probe(states, positive, strength=0.0)
    states[0, 0] = float("nan")
    with pytest.raises(InputError, match="finite hidden states"):
        fit_probe(states, positive)
