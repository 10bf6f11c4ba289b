from __future__ import annotations

import math

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.reference import reference_nll
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.idk_dpo import IdkDPO, method


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_by_hand(answers, taken):
    # D of forget: 4 - 3 = 1 and 2 - 6 = -4; of the refusals: 1 - 3 = -2 and 5 - 4 = 1. Gaps -3 and 5.
    forget = answers([1.0, 2.0], [6.0], reference=[4.0, 2.0])
    refusal = answers([3.0], [1.0, 1.0, 2.0], reference=[1.0, 5.0])
    losses = taken(IdkDPO(beta=0.5), forget=forget, refusal=refusal, retain=answers([1.0], [2.0, 3.0, 4.0]))
    expected = -(2 / 0.5) * (math.log(sigmoid(0.5 * -3)) + math.log(sigmoid(0.5 * 5))) / 2
    assert losses["forget"].item() == pytest.approx(expected)
    assert losses["forget"].item() == pytest.approx(3.560605, abs=1e-5)  # 4 (1.701413 + 0.078889) / 2
    assert losses["retain"].item() == pytest.approx(2.5)


def test_the_gradient_is_a_weight_times_the_difference_of_two_sums(answers, taken):
    """2 sigma(-beta gap) / records on every token of the refusal, and as much against every token of forget."""
    forget, refusal = answers([1.0, 2.0, 4.0], reference=[5.0]), answers([3.0, 1.0], reference=[1.0])
    taken(IdkDPO(beta=0.3), forget=forget, refusal=refusal)["forget"].backward()
    gap = (1 - 4) - (5 - 7)
    weight = 2 * sigmoid(-0.3 * gap)
    assert forget[1].nll.grad.tolist() == pytest.approx([-weight] * 3)
    assert refusal[1].nll.grad.tolist() == pytest.approx([weight] * 2)


def test_it_fades_once_the_refusal_is_the_likelier_by_far(answers, taken):
    forget, refusal = answers([400.0], reference=[1.0]), answers([1.0], reference=[50.0])
    loss = taken(IdkDPO(), forget=forget, refusal=refusal)["forget"]
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert abs(forget[1].nll.grad.item()) < 1e-6


def test_numbers_of_any_size_give_no_infinities(answers, taken):
    for nll in (0.0, 1e4):
        forget, refusal = answers([nll], reference=[0.0]), answers([1e4 - nll], reference=[0.0])
        loss = taken(IdkDPO(), forget=forget, refusal=refusal)["forget"]
        loss.backward()
        assert math.isfinite(loss.item())
        assert math.isfinite(forget[1].nll.grad.item())


def test_it_is_trls_dpo_loss_times_2_over_beta(answers, taken):
    """trl: -log sigma(beta ((chosen - rejected) - (reference chosen - reference rejected))), a mean over pairs."""
    forget = answers([1.0, 2.0], [6.0], reference=[4.0, 2.0])
    refusal = answers([3.0], [4.0], reference=[1.0, 5.0])
    chosen, rejected = torch.tensor([-3.0, -4.0]), torch.tensor([-3.0, -6.0])
    reference = torch.tensor([-1.0, -5.0]) - torch.tensor([-4.0, -2.0])
    theirs = -torch.nn.functional.logsigmoid(0.2 * ((chosen - rejected) - reference)).mean()
    ours = taken(IdkDPO(beta=0.2), forget=forget, refusal=refusal)["forget"]
    assert ours.item() == pytest.approx(float(theirs) * 2 / 0.2)


def test_on_a_model_it_starts_at_2_over_beta_log_2(tiny_llama, make_records):
    model = tiny_llama()
    batches = {"retain": collate(make_records(2), [0, 1], 0)}
    for seed, role in enumerate(("forget", "refusal")):
        records = make_records(5, seed=seed)
        batches[role] = collate(records, range(5), 0).with_reference(reference_nll(model, records, pad_id=0))
    update = Update(model, method(beta=0.2), torch.optim.SGD(model.parameters(), lr=0.0), steps=1, micro_batch=2)
    assert update(batches)["forget@full"] == pytest.approx(2 / 0.2 * math.log(2), rel=1e-4)


def test_bad_input_is_refused(answers, taken):
    for beta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="beta"):
            method(beta=beta)
    with pytest.raises(InputError, match="reference"):
        taken(IdkDPO(), forget=answers([1.0], reference=[1.0]), refusal=answers([1.0]))
