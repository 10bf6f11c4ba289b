from __future__ import annotations

import pytest
import torch

from remanent.core.predict import Predict
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.kl_min import KLMin
from remanent.unlearning.scrub import Scrub, method


def updates(model, chosen, batches, steps, rate=0.05):
    update = Update(model, chosen, torch.optim.SGD(model.parameters(), lr=rate), steps=steps)
    return [update(batches) for _ in range(steps)]


@pytest.fixture
def batches(make_batch):
    return {"forget": make_batch(3), "retain": make_batch(4, seed=2)}


def live(objective, batches, model):
    from dataclasses import replace

    with torch.no_grad():
        found = objective.at_reference(batches, Predict(model))
    return {role: replace(batch, live=found.get(role)) for role, batch in batches.items()}


def test_its_terms_are_divergences_and_an_nll(tiny_llama, batches):
    """Against torch's own divergence, and against KL-min's retain term."""
    before, now = tiny_llama(), tiny_llama(seed=1)
    given = live(Scrub(), batches, before)
    predict = Predict(now)
    losses = Scrub().losses(given, predict)
    for role, term, sign in (("forget", "forget", -1), ("retain", "obey", 1)):
        scores = predict(given[role])
        expected = torch.nn.functional.kl_div(
            scores.distribution, Predict(before)(batches[role]).distribution, log_target=True, reduction="sum"
        )
        assert losses[term].item() == pytest.approx(sign * expected.item(), rel=1e-5)
    assert losses["obey"].item() == pytest.approx(KLMin().losses(given, predict)["retain"].item())
    assert losses["retain"].item() == pytest.approx(predict(given["retain"]).nll.sum().item())


def test_turns_alternate_and_end_with_min_steps(tiny_llama, batches):
    found = updates(tiny_llama(), method(max_share=0.6), batches, 10)
    taken = ["max" if "forget@full" in losses else "min" for losses in found]
    assert taken == ["min", "max", "min", "max", "min", "max", *["min"] * 4]
    for losses, turn in zip(found, taken, strict=True):
        assert ("retain@full" in losses) == ("obey@full" in losses) == (turn == "min")


def test_a_max_step_ascends_the_divergence_and_a_min_step_descends(tiny_llama, batches):
    model = tiny_llama()
    found = updates(model, method(max_share=1.0), batches, 8, rate=0.2)
    ascended = [-losses["forget@full"] for losses in found if "forget@full" in losses]
    assert ascended[0] > 0
    assert ascended[-1] > ascended[0]
    first, last = found[0], found[-2]
    assert last["retain@full"] < first["retain@full"]


def test_where_the_model_is_its_own_teacher_the_divergence_has_no_gradient(tiny_llama, batches):
    """Why the first step is a min step."""
    model = tiny_llama()
    Scrub().losses(live(Scrub(), batches, model), Predict(model))["forget"].backward()
    assert max(float(weight.grad.abs().max()) for weight in model.parameters()) < 1e-4


def test_durableuns_baseline_is_ascent_of_the_nll_and_the_divergence(tiny_llama, batches):
    chosen = method(forget_loss="nll", forget_weight=0.5, obey_weight=1.0, retain_weight=0.0, max_share=1.0)
    objective = chosen.objective
    assert set(objective.at_reference(batches, Predict(tiny_llama()))) == {"retain"}
    model, other = tiny_llama(), tiny_llama()
    update = Update(model, chosen, torch.optim.SGD(model.parameters(), lr=0.1), steps=2)
    update.gradients(batches)
    update.gradients(batches)
    (0.5 * Predict(other)(batches["forget"]).log_probs.mean()).backward()
    for (name, weight), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        # The first update's gradient, of a divergence from itself, is 0 and still there.
        torch.testing.assert_close(weight.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_loss_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="forget_loss"):
        method(forget_loss="js")
