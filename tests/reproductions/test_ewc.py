"""EWC keeps earlier tasks where plain training loses them, at little cost to the newest.

Digits whose pixels are put in another order for each task, the paper's experiment at a small size: an MLP, three
orders one after the other, the same optimizer and steps. Falsified where plain training keeps as much, where pulling
all weights alike (L2 to the anchor, of the same mean curvature) does as well, or where the newest task is not learned.
"""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from torch import nn
from torch.nn import functional

from remanent.continual.ewc import Consolidation
from remanent.core.importance import fisher, sampled_class_nll
from remanent.core.weights import Weights

sklearn = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")

TASKS, SEEDS = 3, range(3)
STRENGTHS = {"plain": 0.0, "ewc": 100.0, "alike": 10.0}  # of 10, 30, 60, 100 and 200 each one's best by the mean


def tasks(seed):
    """(images to train on, labels, images to test on, labels) of each order of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = map(torch.as_tensor, sklearn.load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=generator)
    images, labels = images[order].float() / 16, labels[order]
    found = []
    for number in range(TASKS):
        pixels = torch.randperm(64, generator=generator) if number else torch.arange(64)
        found.append((images[:1200, pixels], labels[:1200], images[1200:, pixels], labels[1200:]))
    return found


def learn(way, seed):
    """Accuracy on each task after the last, in percent."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    weights, pull = Weights.of(model), Consolidation(STRENGTHS[way])
    stream = tasks(seed)
    for images, labels, _, _ in stream:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(20):
            for rows in torch.randperm(len(labels)).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                pull.add_gradient(weights)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        loss = sampled_class_nll(torch.Generator().manual_seed(seed))
        importance = fisher(model, images.split(256), loss, on_warning=pytest.fail)
        if way == "alike":
            mean = sum(v.sum() for v in importance.values()) / sum(v.numel() for v in importance.values())
            importance = {name: torch.full_like(value, float(mean)) for name, value in importance.items()}
        pull.fold(importance, weights)
    with torch.no_grad():
        return [100 * float((model(images).argmax(dim=1) == labels).float().mean()) for _, _, images, labels in stream]


@pytest.fixture(scope="module")
def table():
    """way -> mean over seeds of the accuracy on each task."""
    found = {way: [learn(way, seed) for seed in SEEDS] for way in STRENGTHS}
    return {way: [fmean(column) for column in zip(*rows, strict=True)] for way, rows in found.items()}


def test_earlier_tasks_are_kept(table):
    assert fmean(table["ewc"][:-1]) > fmean(table["plain"][:-1]) + 30


def test_the_newest_task_is_learned(table):
    assert table["plain"][-1] > 93
    assert table["ewc"][-1] > 87


def test_which_weights_are_held_matters(table):
    assert fmean(table["ewc"]) > fmean(table["alike"]) + 5
