from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from remanent.core.predict import Predict
from remanent.core.scores import answer_scores
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.grad_ascent import GradAscent
from remanent.unlearning.kl_min import KLMin
from remanent.unlearning.npo import NPO, method


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_by_hand(answers, taken):
    # D = reference NLL - NLL = 4 - 3 = 1 and 2 - 6 = -4.
    forget = answers([1.0, 2.0], [6.0], reference=[4.0, 2.0])
    retain = answers([1.0], [2.0, 3.0, 4.0])
    losses = taken(NPO(beta=0.5), forget=forget, retain=retain)
    expected = -(2 / 0.5) * (math.log(sigmoid(-0.5 * 1)) + math.log(sigmoid(-0.5 * -4))) / 2
    assert losses["forget"].item() == pytest.approx(expected)
    assert losses["forget"].item() == pytest.approx(2.202003, abs=1e-5)  # 4 (0.974077 + 0.126928) / 2
    assert losses["retain"].item() == pytest.approx(2.5)


def test_at_the_reference_its_gradient_is_gradient_ascents_times_the_token_count(answers, taken):
    """2 sigma(0) = 1, and NPO sums over tokens: mean over records against mean over tokens."""
    npo = answers([1.0, 2.0, 0.5], [6.0], reference=[3.5, 6.0])
    ascent = answers([1.0, 2.0, 0.5], [6.0])
    taken(NPO(), forget=npo)["forget"].backward()
    taken(GradAscent(), forget=ascent)["forget"].backward()
    tokens, records = 4, 2
    torch.testing.assert_close(npo[1].nll.grad, ascent[1].nll.grad * tokens / records)


@pytest.mark.parametrize("difference", [-30.0, -3.0, 0.0, 3.0, 30.0])
def test_its_weight_on_a_record_is_2_sigmoid_beta_D_and_fades_as_it_is_forgotten(difference, answers, taken):
    batch = answers([10.0, 20.0], reference=[30.0 + difference])
    taken(NPO(beta=0.4), forget=batch)["forget"].backward()
    weight = 2 * sigmoid(0.4 * difference)
    assert batch[1].nll.grad.tolist() == pytest.approx([-weight] * 2, rel=1e-4)
    if difference == -30:
        assert weight < 1e-4


def test_towards_beta_0_it_is_gradient_ascent_on_sums_up_to_a_constant(answers, taken):
    losses = []
    for values in ([1.0, 2.0], [5.0, 0.5]):
        batch = answers(values, [6.0], reference=[2.0, 3.0])
        loss = taken(NPO(beta=1e-4), forget=batch)["forget"]
        loss.backward()
        assert batch[1].nll.grad.tolist() == pytest.approx([-0.5] * 3, abs=1e-3)
        losses.append(loss.item())
    # The first record's NLL rises by 2.5: half of that over two records, whatever the constant (2 / beta log 2).
    assert losses[1] - losses[0] == pytest.approx(-1.25, abs=0.01)


def test_an_answer_that_is_all_but_forgotten_gives_no_infinities(answers, taken):
    for nll, reference in ((1e4, 0.0), (0.0, 1e4)):
        batch = answers([nll], reference=[reference])
        loss = taken(NPO(), forget=batch)["forget"]
        loss.backward()
        assert math.isfinite(loss.item())
        assert torch.isfinite(batch[1].nll.grad).all()


def test_on_a_model_it_starts_at_2_over_beta_log_2(tiny_llama, make_records):
    from remanent.core.batch import collate
    from remanent.core.reference import reference_nll

    model, records = tiny_llama(), make_records(5)
    batch = collate(records, range(5), 0).with_reference(reference_nll(model, records, pad_id=0))
    update = Update(model, method(beta=0.2), torch.optim.SGD(model.parameters(), lr=0.0), steps=1)
    losses = update({"forget": batch, "retain": collate(records, [0], 0)})
    assert losses["forget@full"] == pytest.approx(2 / 0.2 * math.log(2), rel=1e-4)


def test_with_kl_it_has_the_forget_term_of_npo_and_the_retain_term_of_kl_min(tiny_llama, make_batch):
    model, reference = tiny_llama(), tiny_llama(seed=1)
    batches = {"forget": make_batch(3), "retain": make_batch(4, seed=2)}
    chosen = method(beta=0.3, retain_loss="kl").objective
    with torch.no_grad():
        batches["forget"] = replace(batches["forget"], reference=answer_scores(reference, batches["forget"]).nll)
        live = chosen.at_reference(batches, Predict(reference))
        batches["retain"] = replace(batches["retain"], live=live["retain"])
        found = chosen.losses(batches, Predict(model))
        assert found["forget"] == NPO(0.3).losses(batches, Predict(model))["forget"]
        assert found["retain"] == KLMin().losses(batches, Predict(model))["retain"]
    assert found["retain"] > 0.1


def test_bad_retain_loss():
    with pytest.raises(InputError, match="retain_loss"):
        method(retain_loss="k1")
