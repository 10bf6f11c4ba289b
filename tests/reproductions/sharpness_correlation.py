"""Does sharpness go with generalization? Kendall's tau over many small models, for every definition of the paper.

`python -m tests.reproductions.sharpness_correlation` goes on where it was cut off (rows in
results/sharpness_correlation.jsonl) and writes results/sharpness_correlation.md and PNGs. Two pools of MLPs 64-64-10:
digits of scikit-learn (600 to train on, the rest to test on; out of distribution: noise 0.35) and, where the local copy
is, Fashion-MNIST (14 x 14, 700 and 200; noise 0.2). Each pool: learning rate x weight decay x input noise x SAM, and a
seed of weights and order for each. Models that do not fit their training data within 1 % are left out, as in the paper;
of Fashion-MNIST, where 4 of 48 fit, those beyond 10 %, which was decided when their training errors were seen. Radii
were fixed beforehand, by size alone; no figure was looked at to choose them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from remanent.core.importance.losses import class_nll
from remanent.optim import SAM
from remanent.report.correlation import scatter
from remanent.report.svg import to_png
from remanent.sharpness import LossSurface
from remanent.sharpness.correlation import Measured, Study, study
from remanent.sharpness.eigenvalues import eigenvalues
from remanent.sharpness.fisher_trace import fisher_trace
from remanent.sharpness.gradient_norm import gradient_norm
from remanent.sharpness.modern_sharpness import Definition, sharpness
from remanent.sharpness.trace import trace

from .study_rows import RESULTS, Row, Rows, markdown
from .vision_world import Split, accuracy, digits, fashion, mean_loss, mlp, noisy, trained

BATCH, POINTS, STEPS = 128, 512, 20
RADII = {
    ("average", "l2", "none"): 0.05,
    ("average", "l2", "element"): 0.3,
    ("average", "linf", "none"): 0.1,
    ("average", "linf", "element"): 0.5,
    ("worst", "l2", "none"): 0.25,
    ("worst", "l2", "element"): 1.0,
    ("worst", "linf", "none"): 0.002,
    ("worst", "linf", "element"): 0.01,
}
FIGURES = ("test error", "ood error", "rate")


@dataclass(frozen=True)
class Pool:
    """Real images, how out of distribution is made, for how long models train, and the training error, in %, above
    which one is left out."""

    split: Split
    noise: float
    epochs: int
    fits: float = 1.0


def pools() -> dict[str, Pool]:
    """The pools that this machine has data for."""
    found = {"digits": Pool(digits(0, 600), 0.35, 60)}
    clothes = fashion()
    if clothes is not None:
        found["fashion"] = Pool(clothes, 0.2, 150, fits=10.0)
    return found


def grid() -> list[dict[str, float]]:
    """Hyper-parameters of a pool's models."""
    names = ("rate", "decay", "noise", "rho")
    values = ((0.02, 0.05, 0.1, 0.2), (0.0, 1e-3), (0.0, 0.15, 0.3), (0.0, 0.05))
    return [dict(zip(names, item, strict=True)) for item in itertools.product(*values)]


def definitions() -> dict[str, Definition]:
    """Name -> definition; logits are normalized for adaptive ones alone, as in the paper."""
    found = {}
    for (case, norm, scale), rho in RADII.items():
        definition = Definition(rho, case, norm, scale, STEPS)  # type: ignore[arg-type]
        adaptive = ", adaptive" if scale == "element" else ""
        found[f"{case} {norm}{adaptive}"] = definition
        if adaptive:
            found[f"{case} {norm}{adaptive}, normalized"] = replace(definition, normalized=True)
    return found


def made(pool: Pool, setting: dict[str, float], seed: int) -> nn.Module:
    """A model of a pool."""
    model = mlp(pool.split.train[0].shape[1], seed=seed)
    optimizer = SAM(
        model.parameters(),
        torch.optim.SGD,
        model=model,
        rho=setting["rho"],
        lr=setting["rate"],
        momentum=0.9,
        weight_decay=setting["decay"],
    )
    return trained(model, optimizer, pool.split.train, pool.epochs, seed=seed, noise=setting["noise"])


def measured(pool: Pool, setting: dict[str, float], seed: int) -> Row:
    """Train a model and measure it by every definition."""
    model = made(pool, setting, seed)
    images, labels = (part[:POINTS] for part in pool.split.train)
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    surface = LossSurface(model, batches)
    found: dict[str, float] = {
        name: sharpness(surface, definition).loss.value for name, definition in definitions().items()
    }
    found["top eigenvalue"] = eigenvalues(surface, tolerance=1e-2).top[0].value
    found["trace"] = trace(surface, 8).trace.value
    found["Fisher trace"] = fisher_trace(surface, class_nll).trace.value
    found["gradient norm"] = gradient_norm(surface).norm.value
    found["training loss"] = mean_loss(model, pool.split.train)
    return {
        **setting,
        "seed": seed,
        "train error": 100 - accuracy(model, pool.split.train),
        "test error": 100 - accuracy(model, pool.split.test),
        "ood error": 100 - accuracy(model, noisy(pool.split.test, pool.noise)),
        "found": found,
    }


def studied(rows: list[Row], group: Callable[[Row], str]) -> Study:
    """Tau of every measure with both errors and with the learning rate."""
    return study(
        [
            Measured(f"{row['seed']:02d}", row["found"], {name: row[name] for name in FIGURES}, group(row))
            for row in rows
        ]
    )


def of_noise(row: Row) -> str:
    """The group in whose models tau is taken too."""
    return f"noise {row['noise']:g}"


def spelled(item: Any) -> str:
    """A tau with its interval."""
    return f"{item.value:+.2f} [{item.low:+.2f}, {item.high:+.2f}]"


def table(rows: list[Row]) -> str:
    """Every measure's tau with test error, error out of distribution, and learning rate."""
    lines = []
    for name, found in studied(rows, of_noise).correlations.items():
        within = ", ".join(f"{item.value:+.2f}" for item in found["ood error"].groups.values())
        lines.append([name, *(spelled(found[other].tau) for other in FIGURES), within])
    return markdown(["measure", "tau, test error", "tau, OOD error", "tau, learning rate", "OOD within noise"], lines)


def plot(found: dict[str, list[Row]]) -> None:
    """Scatter plots: two definitions of each case against both errors; colours are learning rates."""
    names = ("average l2", "average l2, adaptive, normalized", "worst l2", "worst linf, adaptive, normalized")
    for pool, rows in found.items():
        of_rates = studied(sorted(rows, key=lambda row: row["rate"]), lambda row: f"rate {row['rate']:g}").to_dict()
        for error in FIGURES[:2]:
            (RESULTS / picture(pool, error)).write_bytes(to_png(scatter(of_rates, error, names)))


def picture(pool: str, error: str) -> str:
    """The file of a scatter plot."""
    return f"sharpness_correlation_{pool}_{error.split()[0]}.png"


def kept(rows: list[Row], fits: float = 1.0) -> list[Row]:
    """Models that fit their training data within so many percent."""
    return [row for row in rows if row["train error"] <= fits]


def main() -> None:
    """Find the rows that are missing; table and plot are written after each pool."""
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "sharpness_correlation.jsonl")
    found: dict[str, list[Row]] = {}
    asked = pools()
    for name, pool in asked.items():
        found[name] = [
            rows.get(f"{name} {seed:02d}", partial(measured, pool, setting, seed))
            for seed, setting in enumerate(grid())
        ]
        plot({name: kept(every, asked[name].fits) for name, every in found.items()})
        (RESULTS / "sharpness_correlation.md").write_text(page(found, asked), encoding="utf-8")


def page(found: dict[str, list[Row]], asked: dict[str, Pool]) -> str:
    """The tables in words."""
    parts = []
    for name, every in found.items():
        fits = asked[name].fits
        rows = kept(every, fits)
        test, ood = ([row[error] for row in rows] for error in ("test error", "ood error"))
        parts.append(
            f"## {name}: {len(rows)} models, {len(every) - len(rows)} left out\n\n"
            f"Training error at most {fits:g} %. Test error {min(test):.1f} to "
            f"{max(test):.1f} %, out of distribution {min(ood):.1f} to {max(ood):.1f} %.\n\n{table(rows)}\n"
        )
    return f"""# Sharpness and generalization

`python -m tests.reproductions.sharpness_correlation`: Kendall's tau over models, with 90 % intervals (5 % at each end)
of a bootstrap over models; positive: sharper is worse. {POINTS} points in batches of {BATCH}, {STEPS} steps or draws;
MLPs 64-64-10, learning rate x decay x input noise x SAM. The last column is tau within models of one input noise
(0, 0.15, 0.3). Radii were fixed beforehand.

{chr(10).join(parts)}
{chr(10).join(f"![{name}: {error}]({picture(name, error)})" for name in found for error in FIGURES[:2])}
"""


if __name__ == "__main__":
    main()
