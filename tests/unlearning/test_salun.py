from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.combine import MaskedTerm
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.reference import reference_nll
from remanent.core.saliency_mask import saliency
from remanent.core.scores import AnswerScores
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.grad_diff import method as grad_diff
from remanent.unlearning.npo import NPO
from remanent.unlearning.salun import FORMS, LOSSES, RandomLabels, batch_saliency, method


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


@pytest.mark.parametrize("form", FORMS)
def test_salient_weights_forget_more_at_the_first_step_than_random_ones(form, tiny_llama, episode):
    """As many random weights, at the same learning rate and without a retain loss, raise the forget loss less."""

    def forgotten(mask):
        model, records = tiny_llama(), episode.data["forget"]
        before = reference_nll(model, records, pad_id=0).sum()
        plain = method(share=1.0, loss="grad-ascent", retain_weight=0.0)
        held = {"mask": mask} if form == "salun" else {"combine": MaskedTerm("forget", mask)}
        run(model, replace(plain, **held), episode, steps=1, learning_rate=1e-4, batch_size=6)
        return float(reference_nll(model, records, pad_id=0).sum() - before)

    begun = method(form, share=0.1).begin(tiny_llama(), episode)
    salient = begun.mask or begun.combine.mask
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


class OneWeight(torch.nn.Module):
    """Predicts the same at every position, whatever was read: one logit for each of four tokens, all 0."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(4))

    def forward(self, input_ids, attention_mask=None, **options):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 4))


def one_token(*tokens):
    return [Encoded((0, token), (IGNORED, token)) for token in tokens]


def gradients(model, chosen, batches, **options):
    model.zero_grad()
    weights = Weights.of(model).trainable()
    Update(model, chosen, torch.optim.SGD(weights.values(), lr=0.0), steps=1, **options).gradients(batches)
    return {name: weight.grad.clone() for name, weight in weights.items()}


def test_durableuns_form_by_hand():
    """The gradient of an NLL is 1/4 at each logit, less 1 at the label's. Of records that say 1 and 2, each in a batch
    of its own, the sums of absolute values are 1/2, 1, 1, 1/2, where SalUn's are all 1/2. So half of the forget
    gradient of label 1 is (0, 3/4, -1/4, 0), and the retain gradient of label 3 is added whole."""
    model, records = OneWeight(), one_token(1, 2)
    chosen = replace(method("durableun"), recipe=replace(method("durableun").recipe, batch_size=1))
    episode = Episode("one", "erase", {"forget": records, "retain": one_token(3)})
    assert batch_saliency(model, records, Weights.of(model), 10, 1)["logits"].tolist() == [0.5, 1.0, 1.0, 0.5]
    assert saliency(model, records, Weights.of(model))["logits"].tolist() == [0.5] * 4
    begun = chosen.begin(model, episode)
    assert begun.mask == {}
    assert begun.combine.mask["logits"].tolist() == [False, True, True, False]
    batches = {role: collate(episode.data[role], [0], 0) for role in ("forget", "retain")}
    assert gradients(model, begun, batches)["logits"].tolist() == [0.25, 1.0, 0.0, -0.75]


def test_durableuns_mask_holds_the_forget_gradient_alone(tiny_llama, episode):
    """It is made of single batches' absolute gradients; retain's, and what decays, move what it holds."""
    model = tiny_llama()
    begun = with_settings(method("durableun", share=0.2), batch_size=3).begin(model, episode)
    mask = begun.combine.mask
    assert sum(int(part.sum()) for part in mask.values()) == round(0.2 * sum(part.numel() for part in mask.values()))
    batches = {role: collate(records, range(len(records)), 0) for role, records in episode.data.items()}
    forget, retain = (
        gradients(model, grad_diff(**{f"{other}_weight": 0.0}), batches) for other in ("retain", "forget")
    )
    for micro_batch in (None, 1):
        for name, found in gradients(model, begun, batches, micro_batch=micro_batch).items():
            torch.testing.assert_close(found, forget[name] * mask[name] + retain[name], rtol=1e-4, atol=1e-6)


def test_durableuns_scores_are_of_ten_batches_each_record_once(tiny_llama, make_records, mean_loss):
    model, records = tiny_llama(), make_records(7)
    found = batch_saliency(model, records, Weights.of(model), 2, 3)
    sums = []
    for left in range(7):  # of two batches of 3, one record is in none; any split of the other 6 may be the one
        rest = [number for number in range(7) if number != left]
        for first in combinations(rest, 3):
            total = torch.zeros_like(model.lm_head.weight)
            for part in (first, [number for number in rest if number not in first]):
                total += torch.autograd.grad(mean_loss(model, collate(records, part, 0)), model.lm_head.weight)[0].abs()
            sums.append(total)
    name = "model.embed_tokens.weight"  # tied
    assert sum(torch.allclose(found[name], total, rtol=1e-3, atol=1e-5) for total in sums) == 2  # either batch first
    counts = {"forget": 7}
    assert method("durableun").passes_beforehand(counts) == 7
    assert method("durableun").passes_beforehand({"forget": 50}) == 40
    assert method("durableun", share=1.0).passes_beforehand(counts) == 0


def test_on_a_fresh_lora_the_released_threshold_would_hold_nothing(tiny_llama, lora, episode):
    """DurableUn's adapter has more entries in its first factors, which have no gradient, than in its second. So the
    median that its code cuts at is 0, and `>=` chooses everything. Ours never chooses an entry without a gradient."""
    model = lora(tiny_llama(), fresh=True, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    scores = batch_saliency(model, episode.data["forget"], Weights.of(model).trainable(), 10, 4)
    together = torch.cat([part.flatten() for part in scores.values()])
    assert float(together.quantile(0.5)) == 0.0
    mask = method("durableun").begin(model, episode).combine.mask
    assert all(part.all() == ("lora_B" in name) and part.any() == ("lora_B" in name) for name, part in mask.items())


def test_with_every_entry_chosen_durableuns_form_is_its_ga(tiny_llama, episode):
    assert method("durableun").recipe == grad_diff("durableun-ga").recipe
    assert method("durableun").objective == GradDiff()
    batches = {role: collate(records, range(len(records)), 0) for role, records in episode.data.items()}
    model = tiny_llama()
    expected = gradients(model, grad_diff("durableun-ga"), batches)
    for name, found in gradients(model, method("durableun", share=1.0).begin(model, episode), batches).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="form"):
        method("durable")
    with pytest.raises(InputError, match="loss"):
        method(loss="np0")
    with pytest.raises(InputError, match="share"):
        method(share=0.0)
