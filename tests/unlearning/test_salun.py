from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.reference import reference_nll
from remanent.core.saliency_mask import saliency
from remanent.core.scores import AnswerScores
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.npo import NPO
from remanent.unlearning.salun import LOSSES, RandomLabels, method


@pytest.fixture
def episode(make_records):
    return Episode("one", "erase", {"forget": make_records(6, seed=1), "retain": make_records(8, seed=2)})


def run(model, chosen, episode, **changes):
    changes = {"steps": 6, "learning_rate": 1e-2, "batch_size": 3, "warmup": 0.0, **changes}
    return run_episode(model, with_settings(chosen, **changes), episode, Settings(pad_id=0))


@pytest.mark.parametrize("loss", LOSSES)
def test_what_the_mask_holds_stays_bit_for_bit_whatever_decays(loss, tiny_llama, episode, snapshot):
    model = tiny_llama()
    before = snapshot(model)
    mask = method(share=0.2, loss=loss).begin(model, episode).mask
    run(model, method(share=0.2, loss=loss), episode, weight_decay=0.5)
    moved = total = 0
    for name, weight in Weights.of(model).items():
        assert torch.equal(weight.detach()[~mask[name]], before[name][~mask[name]]), name
        moved += int((weight.detach() != before[name])[mask[name]].sum())
        total += int(mask[name].sum())
    assert moved > 0.99 * total
    assert total == round(0.2 * sum(weight.numel() for weight in Weights.of(model).values()))


def test_npos_gradient_ranks_as_the_saliency_does(tiny_llama, episode):
    """Where the model is its own reference its gradient is the summed NLL's over the number of records."""
    model, records = tiny_llama(), episode.data["forget"]
    batch = collate(records, range(6), 0).with_reference(reference_nll(model, records, pad_id=0))
    chosen = replace(method(retain_weight=0.0), objective=NPO(0.7))
    update = Update(model, chosen, torch.optim.SGD(model.parameters(), lr=0.0), steps=1)
    update.gradients({"forget": batch, "retain": collate(episode.data["retain"], [0], 0)})
    gradients = {name: weight.grad.clone() for name, weight in Weights.of(model).items()}
    for name, value in saliency(model, records, Weights.of(model)).items():
        torch.testing.assert_close(gradients[name].abs() * 6, value, rtol=1e-3, atol=1e-4)


def test_salient_weights_forget_more_at_the_first_step_than_random_ones(tiny_llama, episode):
    """As many random weights, at the same learning rate and without a retain loss, raise the forget loss less."""

    def forgotten(mask):
        model, records = tiny_llama(), episode.data["forget"]
        before = reference_nll(model, records, pad_id=0).sum()
        plain = method(share=1.0, loss="grad-ascent", retain_weight=0.0)
        run(model, replace(plain, mask=mask), episode, steps=1, learning_rate=1e-4, batch_size=6)
        return float(reference_nll(model, records, pad_id=0).sum() - before)

    salient = method(share=0.1).begin(tiny_llama(), episode).mask
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.rand(mask.shape, generator=generator) < 0.1 for name, mask in salient.items()}
    assert forgotten(salient) > 2 * forgotten(random) > 0


def test_on_a_fresh_lora_the_first_factor_has_no_gradient_and_stays(tiny_llama, lora, episode):
    mask = method().begin(lora(tiny_llama(), fresh=True), episode).mask
    assert not any(part.any() for name, part in mask.items() if "lora_A" in name)
    assert any(part.any() for name, part in mask.items() if "lora_B" in name)


def test_random_labels_by_hand(answers):
    batch, _ = answers([1.0], [1.0])
    distribution = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]).log()
    rows = torch.tensor([0, 1])
    scores = AnswerScores(distribution[:, 0], rows, rows > 0, distribution, 2)
    found = RandomLabels().losses({"forget": batch, "retain": batch}, lambda given: scores)
    assert found["forget"].item() == pytest.approx(-math.log(0.5 * 0.25**2) / 3 - math.log(0.8 * 0.1**2) / 3)
    assert found["retain"].item() == pytest.approx(-math.log(0.5) - math.log(0.8))


def test_random_labels_are_what_drawn_ones_come_to_and_least_where_the_model_says_nothing(tiny_llama, make_batch):
    from torch.nn import functional

    from remanent.core.predict import Predict

    batch = make_batch(3)
    with torch.no_grad():
        logs = Predict(tiny_llama())(batch).distribution
        found = RandomLabels().losses({"forget": batch}, Predict(tiny_llama()))["forget"] / len(logs)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, logs.shape[1], (4000, len(logs)), generator=generator)
    mean = torch.stack([functional.nll_loss(logs, labels) for labels in drawn]).mean()
    assert float(found) == pytest.approx(float(mean), rel=0.02)
    assert float(found) > math.log(logs.shape[1])


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="loss"):
        method(loss="np0")
    with pytest.raises(InputError, match="share"):
        method(share=0.0)
