"""What a tiny vision transformer and a tiny mixer converge to, with AdamW and with SAM, five seeds.

`python -m tests.reproductions.vit_sam` goes on where it was cut off (rows in results/vit_sam.jsonl) and writes
results/vit_sam.md. The card's digits: 200 to train on, 1597 to test on, patches of 2 x 2, width 32, 3 blocks, AdamW
2e-3, decay 0.1, warm-up, cosine, clip 1, batch 64. SAM takes two passes a step, so AdamW at twice the epochs stands
beside it. rho is the card's (Mixer 0.2, ViT 0.05), chosen on other seeds.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from remanent.optim import SAM
from remanent.sharpness import LossSurface
from remanent.sharpness.layers import layers_of
from remanent.sharpness.ntk import tangent_kernel
from remanent.sharpness.vit_sam import geometry

from .study_rows import RESULTS, Row, Rows, markdown, mean_and_interval
from .vision_world import PatchModel, Split, accuracy, digits, mean_loss, noisy, trained

SEEDS = range(5)
EPOCHS = {"mixer": 100, "vit": 200}
RHO = {"mixer": 0.2, "vit": 0.05}
WAYS = ("adamw", "adamw twice", "sam")
NOISE, SIGMA, ROWS = 0.25, 0.02, 32


def fit(kind: str, way: str, split: Split, seed: int, epochs: int) -> nn.Module:
    """A model trained one way."""
    model = PatchModel(kind, seed=seed)
    rho = RHO[kind] if way == "sam" else 0.0
    optimizer = SAM(
        model.parameters(), torch.optim.AdamW, model=model, rho=rho, lr=2e-3, weight_decay=0.1, max_grad_norm=1.0
    )

    def rate(share: float) -> float:
        return min(1.0, share / 0.1) * 0.5 * (1 + math.cos(math.pi * share))

    return trained(model, optimizer, split.train, epochs * (2 if way == "adamw twice" else 1), seed=seed, schedule=rate)


def measured(kind: str, way: str, seed: int, epochs: int | None = None) -> Row:
    """Train one model and look at it."""
    split = digits(seed, 200)
    model = fit(kind, way, split, seed, epochs or EPOCHS[kind])
    surface = LossSurface(model, list(zip(split.train[0].split(100), split.train[1].split(100), strict=True)))
    layers = {name: item for name, item in layers_of(model).items() if name in ("embed", "blocks.0", "blocks.2")}
    found = geometry(surface, layers=layers, sigma=SIGMA)
    active = list(found.active.layers.values())
    return {
        "kind": kind,
        "way": way,
        "seed": seed,
        "test": accuracy(model, split.test),
        "noisy": accuracy(model, noisy(split.test, NOISE, seed)),
        "loss": mean_loss(model, split.train),
        "top": found.whole.top[0].value,
        "top_first": found.layers["blocks.0"].top[0].value,
        "top_last": found.layers["blocks.2"].top[0].value,
        "moved_loss": found.noisy.loss.value,
        "active": active[0].value,
        "active_last": active[-1].value,
        "norm": found.weight_norm,
    }


def started(kind: str, seed: int) -> Row:
    """The condition number of the tangent kernel of a model that was not trained."""
    split = digits(seed, 200)
    found = tangent_kernel(PatchModel(kind, seed=seed), split.train[0][:ROWS])
    return {"kind": kind, "seed": seed, "condition": found.condition.value}


HEADER = {
    "test": "test, %",
    "noisy": "noisy test, %",
    "loss": "training loss",
    "top": "top eigenvalue",
    "top_first": "first block",
    "top_last": "last block",
    "moved_loss": "loss under noise 0.02",
    "active": "active, first",
    "active_last": "active, last",
    "norm": "norm",
}
FORMS = {"test": ".1f", "noisy": ".1f", "loss": ".4f", "active": ".3f", "active_last": ".3f", "norm": ".1f"}


def table(rows: list[Row]) -> str:
    """Means over seeds with 95 % intervals, and the comparison by seed."""
    lines, pairs = [], []
    for kind in EPOCHS:
        of = {way: [row for row in rows if row["kind"] == kind and row.get("way") == way] for way in WAYS}
        for way, found in of.items():
            if len(found) > 1:
                cells = [mean_and_interval([row[key] for row in found], FORMS.get(key, ".3f")) for key in HEADER]
                lines.append([kind, way, str(len(found)), *cells])
        for other in ("adamw", "adamw twice"):
            both = paired(of["sam"], of[other])
            if len(both) > 1:
                cells = [
                    mean_and_interval([math.log2(theirs[key] / ours[key]) for ours, theirs in both])
                    for key in ("top", "moved_loss")
                ]
                gains = [
                    mean_and_interval([ours[key] - theirs[key] for ours, theirs in both], ".1f")
                    for key in ("test", "noisy")
                ]
                pairs.append([kind, other, *cells, *gains])
    return (
        markdown(["model", "way", "seeds", *HEADER.values()], lines)
        + "\n\nSAM against each, paired by seed (95 % intervals): how many times 2 the eigenvalue and the loss under "
        "noise are smaller, and points of accuracy gained.\n\n"
        + markdown(["model", "against", "log2 eigenvalue", "log2 noisy loss", "test", "noisy test"], pairs)
    )


def paired(first: list[Row], second: list[Row]) -> list[tuple[Row, Row]]:
    """Rows of the same seed."""
    known = {row["seed"]: row for row in second}
    return [(row, known[row["seed"]]) for row in first if row["seed"] in known]


def main() -> None:
    """Find the rows that are missing; the table is written after each seed."""
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "vit_sam.jsonl")
    found: list[Row] = []
    for seed in SEEDS:
        for kind in EPOCHS:
            found.append(rows.get(f"{kind} start {seed}", partial(started, kind, seed)))
            for way in WAYS:
                found.append(rows.get(f"{kind} {way} {seed}", partial(measured, kind, way, seed)))
        if seed > 0:
            (RESULTS / "vit_sam.md").write_text(page(found, seed + 1), encoding="utf-8")


def page(found: list[Row], seeds: int) -> str:
    """The tables in words."""
    kernels = [
        [kind, mean_and_interval([math.log10(row["condition"]) for row in of])]
        for kind in EPOCHS
        if (of := [row for row in found if row["kind"] == kind and "condition" in row])
    ]
    return f"""# The geometry that SAM converges to

`python -m tests.reproductions.vit_sam`: 200 digits of scikit-learn to train on, 1597 to test on, patches of 2 x 2,
width 32, 3 blocks, AdamW 2e-3, decay 0.1, warm-up, cosine, clip 1, batch 64; rho {RHO["mixer"]} (mixer) and
{RHO["vit"]} (ViT). SAM takes two passes a step, so AdamW at twice the epochs stands beside it. Mixer
{EPOCHS["mixer"]} epochs, ViT {EPOCHS["vit"]}; {seeds} seeds; means with 95 % intervals over seeds.

{table([row for row in found if "way" in row])}

log10 of the tangent kernel's condition number before training, {ROWS} images, sum of logits:

{markdown(["model", "log10 condition"], kernels)}
"""


if __name__ == "__main__":
    main()
