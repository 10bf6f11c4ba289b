"""The probe is scikit-learn's, by its formula and by its own figures; its direction is among the states as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remanent.core.probe import Scaler, fit_probe
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


def test_what_is_wrong_is_named():
    states, positive = rows(10, 3)
    with pytest.raises(InputError, match="rows of both kinds"):
        fit_probe(states, torch.ones(10, dtype=torch.bool))
    with pytest.raises(InputError, match="strength"):
        fit_probe(states, positive, strength=0.0)
    states[0, 0] = float("nan")
    with pytest.raises(InputError, match="finite hidden states"):
        fit_probe(states, positive)
