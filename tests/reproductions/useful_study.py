"""USEFUL on data with an easy and a hard feature, and on digits: `python -m tests.reproductions.useful_study [SEEDS]`.

(a) The theory's toy, with the card's figures: an easy feature in 90 % of the examples, a hard one in all. (b) Images of
digits under noise, plain and with a bar that tells the class in 90 % of them. Resumable: each row is kept in
results/useful.jsonl as it is found; results/useful.md is the table.
"""

from __future__ import annotations

import sys
from functools import cache, partial

import torch
from sklearn.datasets import load_digits
from torch import nn

from remanent.core.files import write_atomic
from remanent.core.sampling import seed_of
from remanent.data.useful import elbow, useful
from remanent.optim import SAM
from tests.reproductions.study_rows import RESULTS, Rows, markdown, mean_and_interval

STEPS, EARLY, CHECKS = 2000, 200, (200, 1000, 2000)
RADII = {"GD": 0.0, "SAM": 0.05}
DATA = ("original", "random copies", "USEFUL")
EPOCHS, IMAGE_SEEDS = 30, 5


class Toy(nn.Module):
    """f(x) = the sum over filters and patches of <w, x>^3."""

    def __init__(self, seed, width=40, filters=20):
        super().__init__()
        generator = torch.Generator().manual_seed(seed_of(seed, "toy weights"))
        self.filters = nn.Parameter(0.3 * torch.randn(filters, width, generator=generator) / width**0.5)

    def forward(self, patches):
        return (patches @ self.filters.T).pow(3).sum(dim=(1, 2))


def toy(seed, records, name, width=40):
    """Patches (records, 3, width), labels -1 or 1, and whether each has the easy feature, the first direction."""
    generator = torch.Generator().manual_seed(seed_of(seed, name))
    labels = torch.randint(0, 2, (records,), generator=generator) * 2.0 - 1
    easy = torch.rand(records, generator=generator) < 0.9
    patches = torch.zeros(records, 3, width)
    patches[:, 0, 1] = 0.5 * labels
    patches[:, 1, 0] = labels * easy
    patches[:, 2, 2:] = torch.randn(records, width - 2, generator=generator) / width**0.5
    return patches, labels, easy


def descend(model, patches, labels, radius, steps, checks=()):
    """Full-batch descent; returns what `check` says after each number of steps in `checks`."""
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=radius, lr=0.1)

    def closure():
        loss = nn.functional.softplus(-labels * model(patches)).mean()
        loss.backward()
        return loss

    found = {}
    for step in range(1, steps + 1):
        optimizer.step(closure)
        if step in checks:
            found[step] = checks[step](model)
    return found


def copies(chosen, way, records, seed):
    """Indices of the data: original, with the chosen repeated, or with as many at random."""
    if way == "original":
        return list(range(records))
    if way == "USEFUL":
        return chosen.indices
    generator = torch.Generator().manual_seed(seed_of(seed, "copies"))
    return [*range(records), *torch.randperm(records, generator=generator)[: len(chosen.slow)].tolist()]


def toy_row(optimizer, way, seed, steps=STEPS, checks=CHECKS):
    """Errors in %, the features' strengths at the first check, and what the clusters found."""
    patches, labels, easy = toy(seed, 400, "train")
    test, truth, with_easy = toy(seed, 4000, "test")
    radius, chosen = RADII[optimizer], None
    if way != "original":
        early = Toy(seed)
        descend(early, patches, labels, radius, EARLY)
        with torch.no_grad():
            outputs = early(patches)
        losses = nn.functional.softplus(-labels * outputs)
        chosen = useful(outputs[:, None], (labels > 0).long(), losses=losses, seed=seed)
    rows = copies(chosen, way, len(labels), seed)

    @torch.no_grad()
    def check(model):
        wrong = (model(test) * truth <= 0).float()
        easy_most, hard_most = model.filters[:, 0].max(), model.filters[:, 1].max()
        found = {"error": wrong.mean(), "without": wrong[~with_easy].mean(), "easy": easy_most, "hard": hard_most}
        return {key: float(value) for key, value in found.items()}

    found = descend(Toy(seed), patches[rows], labels[rows], radius, steps, dict.fromkeys(checks, check))
    figures = {f"{key} {step}": value for step, item in found.items() for key, value in item.items()}
    if chosen is not None:
        slow = torch.zeros(len(labels), dtype=torch.bool)
        slow[list(chosen.slow)] = True
        figures["precision"] = float((slow & ~easy).sum() / slow.sum())
        figures["recall"] = float((slow & ~easy).sum() / (~easy).sum())
    return figures


@cache
def digits(seed, bar):
    """Noisy images (n, 1, 8, 8), labels, and whether each has a bar: (training set, test set)."""
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    images = (images / 16).float().reshape(-1, 1, 8, 8)
    generator = torch.Generator().manual_seed(seed_of(seed, "digits"))
    barred = (torch.rand(len(images), generator=generator) < 0.9) & bar
    noisy = images + (0.4 if bar else 0.25) * torch.randn(images.shape, generator=generator)
    if bar:  # the class is the column of a bar, two classes to a column at two heights
        for row in barred.nonzero()[:, 0].tolist():
            noisy[row, 0, (labels[row] // 5) * 4 : (labels[row] // 5) * 4 + 3, labels[row] % 5 + 1] = 1.5
    order, size = torch.randperm(len(images), generator=generator), 800 if bar else 500
    parts = [(noisy[rows], labels[rows], barred[rows]) for rows in (order[:size], order[size:])]
    return parts[0], parts[1]


def image_model(seed):
    """A small convolutional network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "image weights"))
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


def fit_images(images, labels, rows, seed):
    """(model, outputs after each epoch): SGD with the schedule of the whole run."""
    model, outputs = image_model(seed), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [EPOCHS // 2, EPOCHS * 3 // 4], 0.1)
    generator, rows = torch.Generator().manual_seed(seed_of(seed, "order")), torch.tensor(rows)
    for _ in range(EPOCHS):
        for part in rows[torch.randperm(len(rows), generator=generator)].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            outputs.append(model(images))
    return model, outputs


def image_row(bar, way, seed):
    """Test error in %, and how well the clusters find the images without a bar."""
    (images, labels, barred), (test, truth, _) = digits(seed, bar)
    chosen, figures = None, {}
    if way != "original":
        _, outputs = fit_images(images, labels, list(range(len(labels))), seed)
        early = elbow([float((made.argmax(1) != labels).float().mean()) for made in outputs])
        chosen = useful(outputs[early - 1], labels, seed=seed)
        slow = torch.zeros(len(labels), dtype=torch.bool)
        slow[list(chosen.slow)] = True
        figures = {"epoch": early, "share": len(chosen.slow) / len(labels)}
        if bar:
            figures["precision"] = float((slow & ~barred).sum() / slow.sum())
            figures["recall"] = float((slow & ~barred).sum() / (~barred).sum())
    model, _ = fit_images(images, labels, copies(chosen, way, len(labels), seed), seed)
    with torch.no_grad():
        return {"error": float((model(test).argmax(1) != truth).float().mean()), **figures}


def found(seeds):
    """(toy: optimizer -> data -> rows, images: bar -> data -> rows)."""
    rows = Rows(RESULTS / "useful.jsonl")
    toys, images = {}, {}
    for seed in range(seeds):
        for optimizer in RADII:
            for way in DATA:
                made = rows.get(f"toy | {optimizer} | {way} | seed {seed}", partial(toy_row, optimizer, way, seed))
                toys.setdefault(optimizer, {}).setdefault(way, []).append(made)
    for seed in range(min(seeds, IMAGE_SEEDS)):
        for bar in (False, True):
            for way in DATA:
                name = f"digits{' with a bar' if bar else ''} | {way} | seed {seed}"
                images.setdefault(bar, {}).setdefault(way, []).append(
                    rows.get(name, partial(image_row, bar, way, seed))
                )
    return toys, images


def table(toys, images, seeds):
    """The page."""

    def percent(rows, key):
        return mean_and_interval([100 * item[key] for item in rows], ".2f")

    lines = [
        [
            optimizer,
            way,
            f"{sum(i['easy 200'] for i in rows) / seeds:.2f} / {sum(i['hard 200'] for i in rows) / seeds:.3f}",
            *(percent(rows, f"error {step}") for step in CHECKS),
            percent(rows, "without 2000"),
        ]
        for optimizer, ways in toys.items()
        for way, rows in ways.items()
    ]
    clusters = [item for ways in toys.values() for item in ways["USEFUL"]]
    pictures = [
        [
            "with a bar" if bar else "plain",
            way,
            percent(rows, "error"),
            ""
            if way == "original"
            else mean_and_interval(
                [100 * (i["error"] - o["error"]) for i, o in zip(rows, ways["original"], strict=True)], "+.2f"
            ),
            percent(rows, "share") if way == "USEFUL" else "",
            f"{percent(rows, 'precision')}; {percent(rows, 'recall')}" if bar and way == "USEFUL" else "",
        ]
        for bar, ways in images.items()
        for way, rows in ways.items()
    ]
    ahead = [
        100 * (other["error 1000"] - mine["error 1000"])
        for mine, other in zip(toys["GD"]["USEFUL"], toys["GD"]["random copies"], strict=True)
    ]
    return f"""# USEFUL

Made by `python -m tests.reproductions.useful_study {seeds}`. Mean over {
        seeds
    } seeds and its 95% interval by Student's t.

## An easy and a hard feature

400 examples of 3 patches in 40 dimensions: the hard feature (0.5) in all, the easy one (1) in 90 %, noise of length 1;
20 cubic filters, full-batch descent at 0.1, SAM with rho 0.05; clusters after {EARLY} steps. Test error in % on 4000
examples.

{
        markdown(
            [
                "optimizer",
                "data",
                "easy / hard at 200",
                *(f"error at {step}" for step in CHECKS),
                "without the easy one, at 2000",
            ],
            lines,
        )
    }

The slow cluster against the examples without the easy feature: precision {percent(clusters, "precision")}, recall
{percent(clusters, "recall")}. Falsified if USEFUL's error at 1000 is not below that of random copies: it is lower by
{mean_and_interval(ahead, ".2f")} points ({"not falsified" if sum(ahead) > 0 else "falsified"}).

## Digits: a limit

Images of 8 x 8 under noise, a small convolutional network, SGD, {EPOCHS} epochs, {
        min(seeds, IMAGE_SEEDS)
    } seeds; the clusters are taken at the elbow of the
training error. Plain: 500 images, noise 0.25. With a bar: 800 images, noise 0.4, a bar that tells the class in 90 %.
Differences are paired with the original data. Precision and recall: of the images without a bar.

{
        markdown(
            [
                "images",
                "data",
                "error, %",
                "difference",
                "slow, %",
                "precision; recall, %",
            ],
            pictures,
        )
    }
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    write_atomic(RESULTS / "useful.md", table(*found(count), count))
