from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from remanent.data.useful import Useful, early_outputs, elbow, useful
from remanent.errors import InputError, IntegrityError

OUTPUTS = torch.tensor([[0.0, 0.0], [0.0, 0.1], [4.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
LOSSES = torch.tensor([0.1, 0.1, 2.0, 0.3, 0.3, 0.3])


def chosen(factor=2):
    return useful(OUTPUTS, LABELS, losses=LOSSES, factor=factor)


@pytest.mark.parametrize(("factor", "more"), [(1, []), (2, [2]), (3, [2, 2])])
def test_by_hand(factor, more):
    """The card's golden: class 0 has clusters {0, 1} and {2}; class 1 is all alike."""
    found = chosen(factor)
    assert found.slow == (2,)
    assert found.indices == [*range(6), *more]
    first, second = found.classes
    assert (first.records, first.slow) == (3, 1)
    assert first.fast_loss == pytest.approx(0.1)
    assert first.slow_loss == pytest.approx(2.0)
    assert (second.slow, second.fast_loss, second.reason) == (0, None, "outputs all alike")


def test_losses_are_the_cross_entropy_of_logits():
    """Class 0 is better known where its logit is higher: the other side is slow."""
    logits = torch.tensor([[5.0, 0.0], [5.1, 0.0], [0.0, 5.0], [0.0, 5.2], [0.1, 5.0]])
    found = useful(logits, torch.zeros(5, dtype=torch.int64))
    assert found.slow == (2, 3, 4)
    wanted = nn.functional.cross_entropy(logits[:2].double(), torch.zeros(2, dtype=torch.int64))
    assert found.classes[0].fast_loss == pytest.approx(float(wanted))


def test_of_equal_losses_the_smaller_cluster_is_slow():
    outputs = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1]])
    found = useful(outputs, torch.zeros(5, dtype=torch.int64), losses=torch.ones(5))
    assert found.slow == (3, 4)


def test_a_class_of_two_is_left_as_it_is():
    found = useful(torch.randn(2, 3), torch.tensor([1, 1]))
    assert found.slow == ()
    assert found.classes[0].reason == "fewer than 3 records"


def test_the_clusters_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    outputs = torch.randn(300, 3, generator=generator) + 3 * torch.randint(0, 2, (300, 1), generator=generator)
    found, slow = useful(outputs, labels), []
    losses = nn.functional.cross_entropy(outputs.double(), labels, reduction="none").numpy()
    for label in range(3):
        rows = np.flatnonzero(labels.numpy() == label)
        sides = KMeans(2, n_init=10, random_state=0).fit_predict(outputs[rows].double().numpy())
        means = [losses[rows][sides == side].mean() for side in (0, 1)]
        slow += rows[sides == int(means[1] > means[0])].tolist()
    assert found.slow == tuple(sorted(slow))


def test_it_is_found_again_and_order_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(90, 4, generator=generator), torch.arange(90) % 3
    outputs[::5] += 6
    first = useful(outputs, labels)
    assert useful(outputs, labels) == first
    order = torch.randperm(90, generator=generator)
    mixed = useful(outputs[order], labels[order])
    assert {int(order[row]) for row in mixed.slow} == set(first.slow)


def test_a_factor_of_1_is_the_plain_data_bit_for_bit():
    dataset = TensorDataset(torch.arange(6.0))

    def generator():
        return torch.Generator().manual_seed(3)

    plain_draws, ours = generator(), generator()
    plain = DataLoader(dataset, batch_size=4, shuffle=True, generator=plain_draws)
    with_sampler = DataLoader(dataset, batch_size=4, sampler=chosen(1).sampler(dataset, ours))
    view = DataLoader(chosen(1).dataset(dataset), batch_size=4, shuffle=True, generator=(third := generator()))
    for _ in range(3):  # the loaders draw a base seed of their own
        states = [plain_draws.get_state(), third.get_state()]
        assert torch.equal(*states)
        assert [b[0].tolist() for b in plain] == [b[0].tolist() for b in view]
    order = torch.randperm(6, generator=generator()).tolist()
    assert [int(value) for batch in with_sampler for value in batch[0]] == order


def test_repeats_enter_the_shuffled_epoch():
    dataset, found = TensorDataset(torch.arange(6.0)), chosen(3)
    sampler = found.sampler(dataset, torch.Generator().manual_seed(0))
    epochs = [list(sampler) for _ in range(20)]
    assert all(sorted(epoch) == sorted(found.indices) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 15
    assert len(sampler) == len(found.dataset(dataset)) == 8
    assert sum("".join(map(str, epoch)).count("222") for epoch in epochs) < 10, "they would stand side by side"


def test_a_training_on_the_view_of_factor_1_is_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(6, 2, generator=generator), LABELS
    results = []
    for dataset in (TensorDataset(inputs, labels), chosen(1).dataset(TensorDataset(inputs, labels))):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            for x, y in DataLoader(dataset, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1)):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        results.append(model.weight.detach())
    assert torch.equal(*results)


def test_early_outputs_are_of_eval_mode_and_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[2].eval()
    dataset = TensorDataset(torch.randn(7, 2), torch.arange(7) % 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs, labels = early_outputs(model, DataLoader(dataset, batch_size=3))
    assert (model.training, model[1].training, model[2].training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(labels, dataset.tensors[1])
    assert torch.allclose(outputs, model.eval()(dataset.tensors[0]), atol=1e-6)
    assert not outputs.requires_grad


def test_the_elbow_by_hand():
    """Farthest below the line from 0.9 to 0.1: at the third epoch."""
    assert elbow([0.9, 0.6, 0.2, 0.15, 0.1]) == 3
    with pytest.raises(InputError, match="3 epochs"):
        elbow([0.5, 0.4])


def test_it_is_saved_as_plain_data(tmp_path):
    found = chosen(3)
    found.save(tmp_path / "repeat.json")
    assert Useful.load(tmp_path / "repeat.json") == found
    data = json.loads((tmp_path / "repeat.json").read_text())
    assert (data["slow"], data["factor"], data["records"]) == ([2], 3, 6)
    (tmp_path / "other.json").write_text('{"format": "something"}')
    with pytest.raises(IntegrityError, match="no list of records"):
        Useful.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("outputs", "labels", "options", "field"),
    [
        (torch.randn(4), torch.zeros(4, dtype=torch.int64), {}, "outputs"),
        (torch.randn(4, 2), torch.zeros(5, dtype=torch.int64), {}, "outputs"),
        (torch.randn(4, 2), torch.full((4,), 2), {}, "labels"),
        (torch.randn(4, 2), torch.zeros(4), {}, "labels"),
        (torch.full((4, 2), float("nan")), torch.zeros(4, dtype=torch.int64), {}, "outputs"),
        (torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), {"losses": torch.ones(3)}, "losses"),
        (torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), {"factor": 0}, "factor"),
    ],
)
def test_bad_input_is_named(outputs, labels, options, field):
    with pytest.raises(InputError, match=field):
        useful(outputs, labels, **options)


def test_another_data_set_is_refused():
    with pytest.raises(InputError, match="the 6 that were clustered"):
        chosen().sampler(TensorDataset(torch.zeros(5)))
