"""As-stranger: the target is what was said of a stranger; nothing is asked where the model already says it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.divergence import kl_divergence
from remanent.core.predict import Predict
from remanent.core.scores import AnswerScores
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.as_stranger import AsStranger, method


def batch(*answers, prompt=(1,)):
    records = [Encoded((*prompt, *answer), (*[IGNORED] * len(prompt), *answer)) for answer in answers]
    return collate(records, range(len(records)), 0)


def saying(distribution):
    rows = torch.zeros(len(distribution), dtype=torch.int64)
    log = distribution.log()
    return AnswerScores(log[:, 0], rows, rows > 0, log, 1)


def test_by_hand():
    """The name (7, or 8 9) is not asked for; of the fact (20) the record must say what was said of the stranger."""
    forget, stranger = batch((7, 20)), batch((8, 9, 20))
    of_stranger = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.8, 0.2]])
    of_forget = torch.tensor([[0.1, 0.9], [0.25, 0.75]])
    stranger = replace(stranger, live=of_stranger.log())
    says = {id(forget): saying(of_forget), id(stranger): saying(of_stranger)}
    found = AsStranger().losses({"forget": forget, "stranger": stranger}, lambda given: says[id(given)])
    assert found["forget"].item() == pytest.approx(0.8 * math.log(0.8 / 0.25) + 0.2 * math.log(0.2 / 0.75), rel=1e-5)
    assert found["stranger"].item() == pytest.approx(0.0, abs=1e-6)
    assert set(found) == {"forget", "stranger"}


def test_without_the_reference_it_says_so():
    given = {"forget": batch((7, 20)), "stranger": batch((8, 20))}
    says = saying(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    with pytest.raises(InputError, match="live"):
        AsStranger().losses(given, lambda asked: says)


def test_at_the_reference_nothing_is_asked_of_strangers_and_retain(tiny_llama, make_batch):
    model, objective = tiny_llama(), AsStranger()
    given = {"stranger": make_batch(3, seed=1), "retain": make_batch(3, seed=2)}
    with torch.no_grad():
        live = objective.at_reference(given, Predict(model))
    given = {role: replace(one, live=live[role]) for role, one in given.items()}
    losses = objective.losses({**given, "forget": given["stranger"]}, Predict(model))
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(dict.fromkeys(losses, 0.0), abs=1e-5)


def test_an_update_draws_the_record_to_the_stranger_and_leaves_the_stranger(tiny_llama):
    model = tiny_llama()
    forget, stranger = batch((20, 21), (22, 23), prompt=(5, 6)), batch((20, 21), (22, 23), prompt=(7, 8, 9))
    retain = batch((24, 25), (26, 27), prompt=(10, 11))
    before = Predict(model)(stranger).distribution.detach()

    def gaps():
        with torch.no_grad():
            return [float(kl_divergence(before, Predict(model)(one).distribution).mean()) for one in (forget, stranger)]

    first = gaps()
    chosen = method(roundings="", stranger_weight=4.0)
    update = Update(model, chosen, torch.optim.AdamW(model.parameters(), lr=3e-3), steps=20)
    for _ in range(20):
        update({"forget": forget, "stranger": stranger, "retain": retain})
    last = gaps()
    assert first[1] == pytest.approx(0.0, abs=1e-6)
    assert last[0] < 0.3 * first[0]
    assert last[1] < 0.3 * last[0] + 0.01


def test_points():
    assert [str(place.displacement) for place in method().places] == ["full", "one-of(int4-row, int4-g32, nf4)"]
    assert [str(place.displacement) for place in method(roundings="").places] == ["full"]
