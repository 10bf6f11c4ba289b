from __future__ import annotations

import math

import pytest
import torch

from remanent.errors import InputError
from remanent.unlearning.satimp import SatImp, method
from remanent.unlearning.wga import WGA


def test_by_hand(answers, taken):
    # p = 1/2 and 1/4: weights p^2 (1 - p) = 1/8 and 3/64.
    batch = answers([math.log(2)], [math.log(4)])
    loss = taken(SatImp(beta1=2.0, beta2=1.0), forget=batch)["forget"]
    assert loss.item() == pytest.approx(-(math.log(2) / 8 + 3 * math.log(4) / 64) / 2, rel=1e-6)
    assert loss.item() == pytest.approx(-0.075814, abs=1e-5)
    loss.backward()
    assert batch[1].nll.grad.tolist() == pytest.approx([-1 / 16, -3 / 128])


def test_without_beta2_it_is_wga(answers, taken):
    found = []
    for objective in (SatImp(beta1=3.0, beta2=0.0), WGA(beta=3.0)):
        batch = answers([0.0, 0.3, 2.0], [50.0])
        loss = taken(objective, forget=batch)["forget"]
        loss.backward()
        found.append((loss, batch[1].nll.grad))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_both_ends_are_left_alone(answers, taken):
    """A token known for certain and a forgotten one have no gradient; what lies between has."""
    batch = answers([0.0, 0.2, 60.0])
    taken(SatImp(), forget=batch)["forget"].backward()
    certain, between, forgotten = batch[1].nll.grad.tolist()
    assert certain == 0.0
    assert between < -0.01
    assert abs(forgotten) < 1e-20


def test_what_is_missing_from_1_is_not_rounded_away(answers, taken):
    """At an NLL of 1e-9, 1 - p is 1e-9, where float32's difference from 1 would be 0."""
    batch = answers([1e-9])
    taken(SatImp(beta1=0.0, beta2=1.0), forget=batch)["forget"].backward()
    assert batch[1].nll.grad.item() == pytest.approx(-1e-9, rel=1e-5)


def test_the_retain_term_is_a_token_mean(answers, taken):
    assert taken(SatImp(), retain=answers([1.0], [2.0, 6.0]))["retain"].item() == pytest.approx(3.0)
    assert method().weights == {"forget": 1.0, "retain": 0.1}


@pytest.mark.parametrize("given", [{"beta1": -1.0}, {"beta2": math.nan}])
def test_bad_exponents(given):
    with pytest.raises(InputError, match=next(iter(given))):
        SatImp(**given)
