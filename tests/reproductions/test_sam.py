"""SAM resists label noise where more training does not, and ends at flatter points.

The card's digits: 1000 images to train on, 40 % of them with a wrong label, an MLP, SGD at equal epochs and at twice
as many, which is the compute of SAM. Falsified if SAM does not beat both by two standard deviations, or if the top
eigenvalue of the loss's Hessian does not fall.
"""

from __future__ import annotations

import statistics

import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from remanent.optim import SAM

sklearn = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")


def digits(seed, noise=0.4):
    """(inputs, labels) to train on, with noise, and to test on, without."""
    images, labels = map(torch.as_tensor, sklearn.load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    images, labels = (images[order] / 16).float(), labels[order]
    train = labels[:1000].clone()
    wrong = torch.rand(1000, generator=generator) < noise
    train[wrong] = (train[wrong] + torch.randint(1, 10, (int(wrong.sum()),), generator=generator)) % 10
    return (images[:1000], train), (images[1000:], labels[1000:])


def train(data, seed, epochs, **options):
    inputs, labels = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = SAM(
        model.parameters(), torch.optim.SGD, model=model, lr=0.1, momentum=0.9, weight_decay=5e-4, **options
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):

            def closure(rows=rows):
                loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
        schedule.step()
    return model


def accuracy(model, data):
    with torch.no_grad():
        return 100 * float((model(data[0]).argmax(dim=1) == data[1]).float().mean())


def top_eigenvalue(model, data):
    """Of the Hessian of the training loss, by Lanczos on products with it."""
    weights = list(model.parameters())
    loss = nn.functional.cross_entropy(model(data[0]), data[1])
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights, create_graph=True)])

    def product(vector):
        along = gradient @ torch.as_tensor(vector, dtype=torch.float32).reshape(-1)
        return torch.cat([part.flatten() for part in torch.autograd.grad(along, weights, retain_graph=True)]).numpy()

    size = gradient.numel()
    operator = LinearOperator((size, size), matvec=product, dtype="float32")
    start = torch.ones(size).numpy()
    return float(eigsh(operator, k=1, which="LA", v0=start, tol=1e-2, return_eigenvectors=False)[0])


WAYS = {
    "sgd": (1, {"rho": 0.0}),
    "sgd twice": (2, {"rho": 0.0}),
    "sam": (1, {"rho": 0.2}),
    "asam": (1, {"rho": 2.0, "adaptive": True, "eta": 0.01}),
}


def compared(seeds, names, epochs=60):
    """Way -> (test accuracy in percent, top eigenvalue) for each seed."""
    found = {name: [] for name in names}
    for seed in seeds:
        seen, clean = digits(seed)
        for name in names:
            times, options = WAYS[name]
            model = train(seen, seed, times * epochs, **options)
            found[name].append((accuracy(model, clean), top_eigenvalue(model, seen)))
    return found


def beats(better, worse):
    """By more than two standard deviations of either, over seeds."""
    difference = statistics.mean(better) - statistics.mean(worse)
    return difference > 2 * max(statistics.stdev(better), statistics.stdev(worse))


def test_sam_resists_label_noise_at_one_seed():
    found = compared([0], ["sgd", "sgd twice", "sam"])
    (sgd, sharp), (twice, _), (sam, flat) = (found[name][0] for name in ("sgd", "sgd twice", "sam"))
    assert sam > max(sgd, twice) + 8
    assert flat < sharp / 2


@pytest.mark.slow
def test_sam_resists_label_noise():
    found = compared(range(3), WAYS)
    accuracies = {name: [accuracy for accuracy, _ in rows] for name, rows in found.items()}
    for name in ("sam", "asam"):
        for plain in ("sgd", "sgd twice"):
            assert beats(accuracies[name], accuracies[plain]), found
        assert all(flat < sharp / 2 for (_, flat), (_, sharp) in zip(found[name], found["sgd"], strict=True)), found
