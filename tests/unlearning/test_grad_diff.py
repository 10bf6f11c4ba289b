from __future__ import annotations

import pytest

from remanent.unlearning.grad_ascent import GradAscent
from remanent.unlearning.grad_diff import GradDiff, method


def test_by_hand(answers, taken):
    forget, retain = answers([1.0, 2.0], [6.0]), answers([1.0], [2.0, 3.0, 4.0])
    losses = taken(GradDiff(), forget=forget, retain=retain)
    assert losses["forget"].item() == pytest.approx(-3.0)
    assert losses["retain"].item() == pytest.approx(2.5)


def test_its_forget_term_is_gradient_ascent(answers, taken):
    batch = answers([0.3, 2.0], [6.0], [0.1, 0.2, 0.3])
    assert taken(GradDiff(), forget=batch)["forget"] == taken(GradAscent(), forget=batch)["forget"]


def test_a_batch_that_is_not_there_gives_no_term(answers, taken):
    batch = answers([1.0])
    assert list(taken(GradDiff(), retain=batch)) == ["retain"]


def test_weights_reach_the_composition():
    assert method(forget_weight=0.5, retain_weight=2.0).weights == {"forget": 0.5, "retain": 2.0}
