from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.displacement import Relearning
from remanent.core.episode import Episode
from remanent.core.predict import Predict
from remanent.core.scores import answer_scores
from remanent.errors import InputError
from remanent.unlearning.whp import WHP, method


@pytest.fixture
def episode(make_records):
    return Episode("one", "erase", {"forget": make_records(6)})


def logits_of(model, batch):
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits[:, :-1][batch.labels[:, 1:] != IGNORED]


def test_the_labels_are_the_formulas(tiny_llama, episode):
    """As many updates of Relearning as one would make by hand, and v = v_base - alpha ReLU(v_reinforced - v_base)."""
    model, records = tiny_llama(), episode.data["forget"]
    batch = collate(records, range(6), 0)
    Relearning([batch], 20, 3e-3).apply(model)  # it knows what it is to forget
    chosen = method(alpha=20.0, reinforce_epochs=4, reinforce_rate=3e-3)
    found = chosen.begin(model, episode).objective.labels
    base = logits_of(model, batch)
    shuffled = chosen._reinforcement(records).batches
    assert len(shuffled) == 4
    assert all(sorted(given.records.tolist()) == list(range(6)) for given in shuffled)
    with Relearning(shuffled, 4, 3e-3).at(model):
        reinforced = logits_of(model, batch)
    expected = (base - 20.0 * (reinforced - base).clamp(min=0)).argmax(dim=-1)
    assert torch.equal(torch.cat([found[index] for index in range(6)]), expected)
    # Reinforcement raises the answers, which the model would have given and the labels no longer are.
    assert (base.argmax(dim=-1) == batch.targets).float().mean() > 0.8
    assert (expected == batch.targets).float().mean() < 0.3


def test_without_alpha_the_labels_are_the_models_own(tiny_llama, episode):
    model = tiny_llama()
    found = method(alpha=0.0, reinforce_rate=1e-2).begin(model, episode).objective.labels
    own = logits_of(model, collate(episode.data["forget"], range(6), 0)).argmax(dim=-1)
    assert torch.equal(torch.cat([found[index] for index in range(6)]), own)


def test_by_hand(predicting):
    batch, logits, predict = predicting([[0], [1]], [[math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0]])
    objective = WHP({0: torch.tensor([2]), 1: torch.tensor([1])})
    loss = objective.losses({"forget": batch}, predict)["forget"]
    assert loss.item() == pytest.approx(math.log(4) + math.log(3), rel=1e-6)
    loss.backward()
    assert logits.grad[0].tolist() == pytest.approx([0.5, 0.25, -0.75])


def test_the_model_is_given_back_as_it_was(tiny_llama, episode, snapshot, same_bits):
    model = tiny_llama(dropout=0.1).train()
    model.model.layers[0].eval()
    before, modes = snapshot(model), [module.training for module in model.modules()]
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    method(reinforce_rate=1e-2).begin(model, episode)
    assert torch.equal(torch.rand(1), drawn)
    assert same_bits(snapshot(model), before)
    assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())


def test_records_are_found_by_their_index_and_not_by_their_place(tiny_llama, episode):
    model, records = tiny_llama(), episode.data["forget"]
    objective = method(reinforce_rate=1e-2).begin(model, episode).objective
    batch = collate(records, [4, 1], 0)
    expected = -sum(
        answer_scores(model, collate(records, [index], 0))
        .distribution.gather(1, objective.labels[index][:, None])
        .sum()
        for index in (4, 1)
    )
    assert objective.losses({"forget": batch}, Predict(model))["forget"].item() == pytest.approx(expected.item())


def test_a_model_whose_output_is_its_logits(make_records):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Embedding(48, 48)

        def forward(self, input_ids, attention_mask=None):
            return self.inner(input_ids)

    torch.manual_seed(0)
    found = method(reinforce_rate=1e-2).begin(Bare(), Episode("one", "erase", {"forget": make_records(3)}))
    assert len(found.objective.labels) == 3


def test_bad_input(tiny_llama, episode):
    for given in ({"alpha": -1.0}, {"reinforce_epochs": 0.0}, {"reinforce_rate": math.nan}):
        with pytest.raises(InputError, match=next(iter(given))):
            method(**given)
    with pytest.raises(InputError, match="forget"):
        method().begin(tiny_llama(), Episode("one", "erase", {}))
    batch = collate([Encoded((5, 6), (IGNORED, 6))], [0], 0)
    with pytest.raises(InputError, match="labels"):
        WHP().losses({"forget": batch}, Predict(tiny_llama()))
