"""As-stranger: the target is what was said of a stranger; nothing is asked where the model already says it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.divergence import kl_divergence
from remanent.core.episode import Episode
from remanent.core.predict import Predict
from remanent.core.scores import AnswerScores
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.as_stranger import AsStranger, method, raised, with_nll


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
    given = {"forget": forget, "stranger": stranger}
    found = AsStranger(symmetric=False).losses(given, lambda given: saying(of_forget))
    assert found["forget"].item() == pytest.approx(0.8 * math.log(0.8 / 0.25) + 0.2 * math.log(0.2 / 0.75), rel=1e-5)
    assert set(found) == {"forget"}
    both = AsStranger().losses(given, lambda given: saying(of_forget))
    back = 0.25 * math.log(0.25 / 0.8) + 0.75 * math.log(0.75 / 0.2)
    assert (both["forget"] - found["forget"]).item() == pytest.approx(back, rel=1e-5)


def test_what_one_way_leaves_alone_the_other_asks_for():
    """A fact's token at 5 %, of which a stranger's answer has e^-10: the first way hardly pulls, the second does."""
    forget, stranger = batch((20,)), batch((20,))
    aim = torch.tensor([[math.exp(-10), 1 - math.exp(-10)]])
    pulls = {}
    for symmetric in (False, True):
        logit = torch.tensor([[math.log(0.05 / 0.95), 0.0]], requires_grad=True)
        given = {"forget": forget, "stranger": replace(stranger, live=aim.log())}
        says = AnswerScores(
            logit.log_softmax(dim=1)[:, 0],
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.bool),
            logit.log_softmax(dim=1),
            1,
        )
        AsStranger(symmetric).losses(given, lambda asked, says=says: says)["forget"].backward()
        pulls[symmetric] = float(logit.grad[0, 0])
    assert pulls[False] == pytest.approx(0.05, rel=0.01)
    assert pulls[True] > 5 * pulls[False]


def test_smallest_are_raised_to_one_level():
    nll = torch.tensor([0.0, 3.0, 1.0])
    # Up to a mean of 2: 0 and 1 rise to 1.5 each. Up to a mean of 4: all three.
    assert raised(nll, torch.tensor(2.0)).tolist() == pytest.approx([1.5, 3.0, 1.5])
    assert raised(nll, torch.tensor(4.0)).tolist() == pytest.approx([4.0, 4.0, 4.0])
    assert raised(nll, torch.tensor(1.0)).tolist() == nll.tolist()  # the mean is above it: nothing is lowered
    assert raised(torch.tensor([2.0]), torch.tensor(5.0)).tolist() == [5.0]


def test_a_token_gets_its_nll_and_the_others_keep_their_proportions():
    given = torch.tensor([[0.5, 0.3, 0.2], [1 - 2e-12, 1e-12, 1e-12]], dtype=torch.float64).log().float()
    made = with_nll(given, torch.tensor([0, 0]), torch.tensor([math.log(4), math.log(2)])).exp()
    assert made[0].tolist() == pytest.approx([0.25, 0.45, 0.3], rel=1e-5)
    assert made[1].tolist() == pytest.approx([0.5, 0.25, 0.25], rel=1e-4)


def test_a_fact_is_no_better_known_of_a_stranger_than_an_unseen_one():
    """8 names the stranger, 20 21 is the fact that was taught and 30 one that never was; 25 is a word of both."""
    stranger, unseen = batch((8, 25, 20, 21)), batch((8, 25, 30))
    probabilities = {id(stranger): [0.9, 0.9, 0.5, 0.8], id(unseen): [0.9, 0.9, 0.1]}

    def predict(given):
        target = torch.tensor(probabilities[id(given)])
        tokens = given.labels[0, 1:]
        distribution = torch.full((len(target), 40), 1.0) * ((1 - target) / 39)[:, None]
        distribution[torch.arange(len(target)), tokens] = target
        log = distribution.log()
        rows = torch.zeros(len(target), dtype=torch.int64)
        return AnswerScores(target.log(), rows, rows > 0, log, 1)

    live = AsStranger().at_reference({"stranger": stranger, "unseen": unseen}, predict)["stranger"]
    said = live[torch.arange(4), stranger.labels[0, 1:]].exp()
    assert said.tolist() == pytest.approx([0.9, 0.9, 0.1, 0.1], rel=1e-5)
    assert live.exp().sum(dim=1).tolist() == pytest.approx([1.0] * 4, rel=1e-5)


def test_without_the_reference_it_says_so():
    given = {"forget": batch((7, 20)), "stranger": batch((8, 20))}
    says = saying(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    with pytest.raises(InputError, match="live"):
        AsStranger().losses(given, lambda asked: says)


def test_each_record_is_raised_by_its_own_unseen_one():
    """Of two records the second's fact is raised to what its own unseen answer has, and the first's stays."""
    stranger, unseen = batch((8, 20), (9, 21, 22)), batch((8, 30), (9, 31))
    probabilities = {id(stranger): [0.9, 0.2, 0.9, 0.6, 0.7], id(unseen): [0.9, 0.5, 0.9, 0.3]}

    def predict(given):
        target = torch.tensor(probabilities[id(given)])
        rows, columns = (given.labels != IGNORED).nonzero(as_tuple=True)
        distribution = torch.full((len(target), 40), 1.0) * ((1 - target) / 39)[:, None]
        distribution[torch.arange(len(target)), given.labels[rows, columns]] = target
        return AnswerScores(target.log(), rows, rows > 0, distribution.log(), 2)

    live = AsStranger().at_reference({"stranger": stranger, "unseen": unseen}, predict)["stranger"]
    said = live[torch.arange(5), torch.tensor([8, 20, 9, 21, 22])].exp()
    assert said.tolist() == pytest.approx([0.9, 0.2, 0.9, 0.3, 0.3], rel=1e-5)


def test_at_the_reference_nothing_is_asked_of_retain(tiny_llama, make_batch):
    model, objective, batch_ = tiny_llama(), AsStranger(), make_batch(3, seed=2)
    with torch.no_grad():
        live = objective.at_reference({"retain": batch_}, Predict(model))
    assert set(live) == {"retain"}
    loss = objective.losses({"retain": replace(batch_, live=live["retain"])}, Predict(model))["retain"]
    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def asked():
    return {
        "forget": batch((20, 21), (22, 23), prompt=(5, 6)),
        "stranger": batch((20, 21), (22, 23), prompt=(7, 8, 9)),
        "unseen": batch((30, 31), (32, 33), prompt=(7, 8, 9)),
        "retain": batch((24, 25), (26, 27), prompt=(10, 11)),
    }


def test_updates_draw_the_record_to_its_aim(tiny_llama):
    model, given = tiny_llama(), asked()
    with torch.no_grad():
        aim = AsStranger().at_reference(given, Predict(model))["stranger"]

    def gap():
        with torch.no_grad():
            return float(kl_divergence(aim, Predict(model)(given["forget"]).distribution).mean())

    first = gap()
    update = Update(model, method(roundings=""), torch.optim.AdamW(model.parameters(), lr=3e-3), steps=20)
    for _ in range(20):
        losses = update(given)
    assert gap() < 0.3 * first
    assert losses["retain@full"] < 0.05


def test_points():
    assert [str(place.displacement) for place in method().places] == ["full", "one-of(int4-row, int4-g32, nf4)"]
    assert [str(place.displacement) for place in method(roundings="").places] == ["full"]


def test_with_relearning_every_part_of_the_forget_set_is_learnt_again_in_turn(tiny_llama):
    records = [Encoded((1, 20 + n), (IGNORED, 20 + n), group=f"g{n % 8}") for n in range(16)]
    chosen = method(roundings="", relearning_steps=3, relearning_rate=1e-2)
    begun = chosen.begin(tiny_llama(), Episode("e", "erase", {"forget": records}))
    here, again = begun.places
    assert str(here.displacement) == "full"
    assert again.terms == ("forget",)
    parts = again.displacement.displacements
    learnt = [sorted({int(row[1]) - 20 for part in one.batches for row in part.input_ids}) for one in parts]
    assert learnt == [[n for n in range(16) if n % 4 == part] for part in range(4)]  # whole groups
    assert {one.steps for one in parts} == {3}
    assert chosen.begin(tiny_llama(), Episode("e", "erase", {"forget": records[:1]})).places[1].displacement


@pytest.mark.parametrize(
    ("name", "value"), [("relearning_steps", -1), ("relearning_rate", 0.0), ("rounded_weight", -1.0)]
)
def test_bad_values(name, value):
    with pytest.raises(InputError, match=name):
        method(**{name: value})
