from __future__ import annotations

import math

import pytest

from remanent.core.schedule import Alternate, Every, Ramp, learning_rate_factor
from remanent.errors import InputError


def test_the_papers_warm_up_of_alpha():
    """DurableUn: 0 for t <= 100, then min(a, 2 a (t - 100) / 200), a = 3, T = 300."""
    ramp = Ramp(0.0, 3.0, after=1 / 3)
    for step in range(1, 301):
        expected = 0.0 if step <= 100 else min(3.0, 2 * 3.0 * (step - 100) / 200)
        assert ramp.at(step, 300) == pytest.approx(expected)
    assert ramp.at(200, 300) == 3.0


def test_ramps_may_fall_and_start_anywhere():
    assert [Ramp(2.0, 1.0).at(step, 4) for step in (1, 2, 3, 4)] == [1.5, 1.0, 1.0, 1.0]
    assert Ramp(1.0, 5.0, after=0.5).at(5, 10) == 1.0
    for after in (-0.1, 1.0):
        with pytest.raises(InputError, match="after"):
            Ramp(0.0, 1.0, after=after)


def test_two_that_alternate_take_every_update_between_them_once():
    first, second = Alternate(0, until=0.6, after=1.0), Alternate(1, until=0.6)
    assert [first.at(step, 10) for step in range(1, 11)] == [1, 0, 1, 0, 1, 0, 1, 1, 1, 1]
    assert [second.at(step, 10) for step in range(1, 11)] == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0]
    assert [Alternate(1).at(step, 4) for step in (1, 2, 3, 4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(("name", "value"), [("turn", 2), ("until", 1.1), ("until", math.nan), ("after", -1.0)])
def test_an_alternation_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        Alternate(**{"turn": 0, name: value})


def test_linear_with_warm_up_by_hand():
    found = [learning_rate_factor("linear", step, 10, 0.2) for step in range(1, 11)]
    assert found == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_cosine_and_constant_by_hand():
    cosine = [learning_rate_factor("cosine", step, 4, 0.0) for step in (1, 2, 3, 4)]
    assert cosine == pytest.approx([0.5 * (1 + math.cos(math.pi * done)) for done in (0, 0.25, 0.5, 0.75)])
    assert [learning_rate_factor("constant", step, 4, 0.5) for step in (1, 2, 3, 4)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_is_never_above_its_peak_and_never_0(schedule):
    for steps in range(1, 40):
        for warmup in (0.0, 0.05, 0.1, 0.33, 0.5, 1.0):
            factors = [learning_rate_factor(schedule, step, steps, warmup) for step in range(1, steps + 1)]
            assert all(0 < factor <= 1 for factor in factors), (steps, warmup, factors)


def test_every_so_many_and_all_others_take_every_update_between_them_once():
    assert [Every(3).at(step, 7) for step in range(1, 8)] == [0, 0, 1, 0, 0, 1, 0]
    assert [Every(3, others=True).at(step, 7) for step in range(1, 8)] == [1, 1, 0, 1, 1, 0, 1]
    with pytest.raises(InputError, match="interval"):
        Every(1)
