from __future__ import annotations

import math

import pytest
import torch

from remanent.errors import InputError
from remanent.unlearning.ce_u import CEU


def test_by_hand(predicting):
    # p = 1/2, 1/4, 1/4 with the answer at 0: the target is 0, 1/2, 1/2.
    batch, logits, predict = predicting([[0]], [[math.log(2), 0.0, 0.0]])
    loss = CEU(skip=0).losses({"forget": batch}, predict)["forget"]
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)
    loss.backward()
    assert logits.grad.tolist()[0] == pytest.approx([0.5, -0.25, -0.25])  # p - target


@pytest.mark.parametrize("answer", [-30.0, -1e4])
def test_where_the_answer_has_no_probability_the_gradient_vanishes(answer, predicting):
    batch, logits, predict = predicting([[0]], [[answer, 1.0, 0.0]])
    loss = CEU(skip=0).losses({"forget": batch}, predict)["forget"]
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad.abs().max() < 1e-6


def test_a_token_that_cannot_be_said_gives_no_nan(predicting):
    batch, logits, predict = predicting([[0]], [[-math.inf, 1.0, 0.0]])
    loss = CEU(skip=0).losses({"forget": batch}, predict)["forget"]
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad.isfinite().all()


def test_the_first_tokens_of_each_answer_are_left_alone_and_not_counted(predicting):
    targets = [[0, 1, 2], [1], [2, 0]]
    numbers = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).tolist()
    batch, logits, predict = predicting(targets, numbers)
    objective = CEU(skip=1)
    objective.losses({"forget": batch}, predict)["forget"].backward()
    assert logits.grad.any(dim=1).tolist() == [False, True, True, False, False, True]
    assert objective.counted("forget", {"forget": batch}) == 3
    assert CEU(skip=2).counted("forget", {"forget": batch}) == 1
    assert CEU(skip=9).counted("forget", {"forget": batch}) == 0
    assert CEU(skip=9).losses({"forget": batch}, predict)["forget"].item() == 0.0


def test_bad_skip():
    with pytest.raises(InputError, match="skip"):
        CEU(skip=-1)
