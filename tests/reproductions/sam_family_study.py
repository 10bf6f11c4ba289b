"""SAM and its family under label noise, and without: `python -m tests.reproductions.sam_family_study [SEEDS]`.

The card's digits: 1000 images to train on, 797 to test on with true labels, an MLP, SGD 0.1 with momentum and a cosine,
batches of 64, 60 epochs. Radii are the card's, not chosen here; every one that was run is a row. Resumable: each row is
kept in results/sam_family.jsonl as it is found; results/sam_family.md is the table.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import torch
from torch import nn

from remanent.core.files import write_atomic
from remanent.optim import ASAM, ESAM, GSAM, MSAM, SAM, LookSAM
from tests.reproductions.study_rows import RESULTS, Rows, markdown, mean_and_interval
from tests.reproductions.test_sam import accuracy, digits, top_eigenvalue

BATCH = 64
SAM_02 = partial(SAM, rho=0.2)
# Name -> (optimizer, epochs over 60, further options, share of the batch that the ascent sees)
WAYS = {
    "SGD": (partial(SAM, rho=0.0), 1, {}, 1.0),
    "SGD, twice the epochs": (partial(SAM, rho=0.0), 2, {}, 1.0),
    "SGD, weight decay 5e-3": (partial(SAM, rho=0.0), 1, {"weight_decay": 5e-3}, 1.0),
    "SAM 0.05": (partial(SAM, rho=0.05), 1, {}, 1.0),
    "SAM 0.2": (SAM_02, 1, {}, 1.0),
    "SAM 0.5": (partial(SAM, rho=0.5), 1, {}, 1.0),
    "ASAM 0.5": (partial(ASAM, rho=0.5), 1, {}, 1.0),
    "ASAM 2": (partial(ASAM, rho=2.0), 1, {}, 1.0),
    "mSAM 0.2, micro-batches of 16": (partial(MSAM, rho=0.2, micro_batch_size=16), 1, {}, 1.0),
    "GSAM 0.2, alpha 0.4": (partial(GSAM, rho=0.2), 1, {}, 1.0),
    "GSAM 0.2 to 0.02, alpha 0.4": (partial(GSAM, rho=0.2, rho_min=0.02), 1, {}, 1.0),
    "LookSAM 0.2, every 5, alpha 0.7": (partial(LookSAM, rho=0.2), 1, {}, 1.0),
    "ESAM 0.2, beta 0.6, gamma 0.5": (partial(ESAM, rho=0.2), 1, {}, 1.0),
    "ESAM 0.2, beta 0.6, gamma 1": (partial(ESAM, rho=0.2, gamma=1.0), 1, {}, 1.0),
    "SAM 0.2, every 2": (partial(SAM_02, every=2), 1, {}, 1.0),
    "SAM 0.2, every 5": (partial(SAM_02, every=5), 1, {}, 1.0),
    "SAM 0.2, every 2, reuse": (partial(SAM_02, every=2, between="reuse"), 1, {}, 1.0),
    "SAM 0.2, every 5, reuse": (partial(SAM_02, every=5, between="reuse"), 1, {}, 1.0),
    "SAM 0.2, ascent on a quarter": (SAM_02, 1, {}, 0.25),
}
SGD_WAYS = ("SGD", "SGD, twice the epochs")


def train(way, data, test, seed, epochs=60):
    """Returns (model, best test accuracy at the end of an epoch, records passed forward and backward, seconds)."""
    make, times, options, share = WAYS[way]
    inputs, labels = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    given = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, **options}
    optimizer = make(model.parameters(), torch.optim.SGD, model=model, **given)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, times * epochs)
    passed, best, spent = 0, 0.0, 0.0

    def losses(of):
        nonlocal passed
        passed += len(of)
        return nn.functional.cross_entropy(model(inputs[of]), labels[of], reduction="none")

    def closure(of):
        loss = losses(of).mean()
        loss.backward()
        return loss

    for _ in range(times * epochs):
        start = time.process_time()
        for rows in torch.randperm(len(inputs)).split(BATCH):
            if isinstance(optimizer, ESAM):
                optimizer.step(lambda part, rows=rows: losses(rows[part]), records=len(rows))
            elif isinstance(optimizer, MSAM):
                optimizer.step(lambda part, rows=rows: closure(rows[part]), records=len(rows))
            else:
                part = rows[: max(1, int(share * len(rows)))]
                optimizer.step(lambda rows=rows: closure(rows), ascent=lambda part=part: closure(part))
        schedule.step()
        spent += time.process_time() - start
        best = max(best, accuracy(model, test))
    return model, best, passed, spent


def row(way, noise, seed, epochs=60):
    """One run's figures."""
    data, test = digits(seed, noise)
    model, best, passed, spent = train(way, data, test, seed, epochs)
    return {
        "accuracy": accuracy(model, test),
        "best": best,
        "eigenvalue": top_eigenvalue(model, data),
        "passed": passed,
        "seconds": spent,
    }


def found(seeds):
    """Way -> noise -> rows, one for each seed."""
    rows = Rows(RESULTS / "sam_family.jsonl")
    made = {}
    for noise in (0.4, 0.0):
        for seed in range(seeds):  # all ways of one seed, so that what the machine does else is nobody's alone
            for way in WAYS:
                name = f"{way} | noise {noise} | seed {seed}"
                made.setdefault(way, {}).setdefault(noise, []).append(rows.get(name, partial(row, way, noise, seed)))
    return made


def table(made, seeds):
    """The page."""
    plain = made["SGD"]
    lines = []

    def figures(way, key="accuracy"):
        rows = made[way]
        cost = sum(r["passed"] for r in rows[0.4]) / sum(r["passed"] for r in plain[0.4])
        seconds = sum(r["seconds"] for r in rows[0.4]) / sum(r["seconds"] for r in plain[0.4])
        return [
            mean_and_interval([r[key] for r in rows[0.4]], ".1f"),
            mean_and_interval([r["eigenvalue"] for r in rows[0.4]], ".2f") if key == "accuracy" else "",
            mean_and_interval([r[key] for r in rows[0.0]], ".1f"),
            mean_and_interval([r["eigenvalue"] for r in rows[0.0]], ".2f") if key == "accuracy" else "",
            f"{cost:.2f}",
            f"{seconds:.2f}",
        ]

    for way in WAYS:
        lines.append([way, *figures(way)])
        if way == "SGD":
            lines.append(["SGD, its best epoch on the test set", *figures(way, "best")])
    header = ["way", "40% noise: accuracy, %", "eigenvalue", "clean: accuracy, %", "eigenvalue", "records", "time"]
    return f"""# SAM and its family on digits

Made by `python -m tests.reproductions.sam_family_study {seeds}`: 1000 images, an MLP 64-256-256-10, SGD 0.1, momentum
0.9, weight decay 5e-4, cosine, batches of 64, 60 epochs; accuracy on 797 images with true labels. Mean over {seeds}
seeds (of images, noise and weights) and its 95% interval by Student's t. Eigenvalue: the largest of the training
loss's Hessian. Records: passed forward (all but ESAM's choice also backward), over SGD's; time: CPU seconds, over
SGD's, beside other work. The best epoch is chosen by the test set itself: what stopping early could give at most.

{markdown(header, lines)}
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    write_atomic(RESULTS / "sam_family.md", table(found(count), count))
