from __future__ import annotations

import pytest

from remanent.core.task import Task, teach
from remanent.unlearning.retrain import method as retrain


def test_by_hand(answers, taken):
    batch = answers([1.0], [2.0, 3.0, 4.0])
    loss = taken(Task(), task=batch)["task"]
    assert loss.item() == pytest.approx(2.5)
    loss.backward()
    assert batch[1].nll.grad.tolist() == pytest.approx([0.25] * 4)


def test_retraining_is_teaching_from_the_base():
    assert retrain().from_base
    assert not teach().from_base
    assert (retrain().objective, retrain().recipe, retrain().roles) == (teach().objective, teach().recipe, ("task",))
