"""When does a path between a model and its fine-tune fail out of distribution, and do straggler layers tell?

`python -m tests.reproductions.stragglers` goes on where it was cut off (rows in results/stragglers.jsonl) and writes
results/stragglers.md. The card's world: a perceptron 64-64-64-64-10 is pretrained on 250 digits in six domains (clean,
noisy, inverted, shifted, low contrast, rotated: "zero-shot"), then fine-tuned on 650 clean digits at 24 settings.
In distribution: clean test digits. Out of distribution: the mean of the other five domains. Five pretrained models:
fine-tunes of one are not independent, so that every interval is over them, of a figure of each.
Stragglers are found on noisy, inverted and shifted digits; what is reported of them is on the other two domains.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from statistics import mean

import torch
from torch import nn

from remanent.core.displacement import Interpolation
from remanent.sharpness import LossSurface
from remanent.sharpness.clip_interpolation import stragglers_by_criticality, stragglers_by_reset
from remanent.sharpness.correlation import correlation
from remanent.sharpness.interpolation import Path, path, weights_of
from remanent.sharpness.layers import layers_of
from remanent.sharpness.layerwise import layerwise
from remanent.sharpness.sparse_update import SparseUpdate
from remanent.sharpness.surface import class_wrong

from .study_rows import RESULTS, Row, Rows, markdown, mean_and_interval
from .vision_world import Data, digits, mlp, noisy, trained

SEEDS = range(5)
RATES = (0.003, 0.01, 0.03, 0.06, 0.1, 0.15)
FINDING, REPORTED = ("noisy", "inverted", "shifted"), ("low contrast", "rotated")
KEEP, AT_ID = (0.05, 0.2, 0.5), 0.92
SETTINGS = [
    {"rate": rate, "noise": noise, "epochs": epochs}
    for rate, noise, epochs in itertools.product(RATES, (0.0, 0.2), (10, 40))
]


def domains(data: Data) -> dict[str, Data]:
    """The same digits as six domains."""
    images, labels = data
    square = images.view(-1, 8, 8)
    return {
        "clean": data,
        "noisy": noisy(data, 0.35, 1),
        "inverted": (1 - images, labels),
        "shifted": (torch.roll(square, 1, dims=2).reshape(-1, 64), labels),
        "low contrast": (0.3 + 0.2 * images, labels),
        "rotated": (torch.rot90(square, 1, dims=(1, 2)).reshape(-1, 64), labels),
    }


class Start:
    """A pretrained model and its data."""

    def __init__(self, seed: int) -> None:
        split = digits(seed, 900)
        images, labels = split.train
        before = domains((images[:250], labels[:250]))
        self.tuning, self.test = (images[250:], labels[250:]), domains(split.test)
        self.model = mlp(64, seed=seed, widths=(64, 64, 64))
        many = (torch.cat([item[0] for item in before.values()]), torch.cat([item[1] for item in before.values()]))
        trained(self.model, torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9), many, 12, seed=seed)
        self.weights = weights_of(self.model)

    def tuned(self, setting: dict[str, float], seed: int) -> nn.Module:
        """The model fine-tuned on clean digits."""
        model = mlp(64, seed=0, widths=(64, 64, 64))
        model.load_state_dict(self.weights)
        optimizer = torch.optim.SGD(model.parameters(), lr=setting["rate"], momentum=0.9)
        return trained(model, optimizer, self.tuning, int(setting["epochs"]), seed=seed, noise=setting["noise"])

    def surface(self, model: nn.Module, *names: str) -> LossSurface:
        """The loss on domains of the test digits."""
        data = [self.test[name] for name in names]
        return LossSurface(model, data, wrong=class_wrong)


def between(start: Start, model: nn.Module, *names: str) -> Path:
    """The path from the pretrained model."""
    return path(start.surface(model, *names), start.weights)


def curve(start: Start, model: nn.Module, *names: str) -> list[float]:
    """Accuracy along the path from the pretrained model."""
    return accuracies(between(start, model, *names))


def accuracies(found: Path) -> list[float]:
    """Accuracy at each point."""
    assert found.errors is not None
    return [1 - item.value for item in found.errors]


def measured(start: Start, setting: dict[str, float], seed: int) -> Row:
    """Fine-tune at one setting and look at the path."""
    model = start.tuned(setting, seed)
    others = FINDING + REPORTED
    clean, moved = curve(start, model, "clean"), between(start, model, *others)
    images, labels = (part[:256] for part in start.tuning)
    surface = LossSurface(model, [(images, labels)])
    sharp = {}
    for share in (0.5, 1.0):
        point = replace(surface, at=Interpolation(start.weights, 1 - share))
        found = layerwise(point)
        sharp[f"{share:g}"] = {
            **{name: item.loss.value for name, item in found.layers.items()},
            "whole": found.whole.loss.value,
        }
    reset = stragglers_by_reset(start.surface(model, *FINDING), start.weights)
    critical = stragglers_by_criticality(start.surface(model, "clean"), start.weights)
    return {
        **setting,
        "seed": seed,
        "clean": clean,
        "moved": accuracies(moved),
        "gain": moved.gain().to_dict(),
        "reported": curve(start, model, *REPORTED),
        "sharp": sharp,
        "reset": {name: item.value for name, item in reset.scores.items()},
        "critical": {name: item.value for name, item in critical.scores.items()},
        "remedy": remedies(start, model, reset.first),
    }


def remedies(start: Start, model: nn.Module, straggler: str) -> dict[str, list[list[float]]]:
    """Ways of making a layer sparse -> (clean, reported) accuracy along the path."""
    layers = layers_of(model)
    other = next(name for name in reversed(layers) if name != straggler)
    found = {}
    tries = [("update", straggler, keep) for keep in KEEP] + [("weights", straggler, keep) for keep in KEEP]
    tries += [("update-random", straggler, 0.05), ("update", other, 0.05)]
    for mode, layer, keep in tries:
        undo = SparseUpdate(start.weights, keep, layers[layer], mode).apply(model)  # type: ignore[arg-type]
        where = "straggler" if layer == straggler else "other layer"
        found[f"{mode} {keep:g}, {where}"] = [curve(start, model, "clean"), curve(start, model, *REPORTED)]
        undo.undo()
    return found


def at_equal(clean: list[float], moved: list[float], least: float) -> float | None:
    """Accuracy out of distribution at the smallest weight of the fine-tune that has so much in distribution."""
    for number, value in enumerate(clean):
        if value >= least:
            low = clean[number - 1] if number else value
            share = 1.0 if value == low else (least - low) / (value - low)
            return moved[number] if number == 0 else moved[number - 1] + share * (moved[number] - moved[number - 1])
    return None


def failed(row: Row) -> bool:
    """Whether no point of the path is better out of distribution than both ends, by more than chance (5 %)."""
    return bool(row["gain"]["low"] <= 0)


def by_start(rows: list[Row]) -> list[list[Row]]:
    """The rows of each pretrained model."""
    return [[row for row in rows if row["seed"] == seed] for seed in SEEDS if any(row["seed"] == seed for row in rows)]


def over_starts(values: list[float], form: str = ".2f") -> str:
    """A mean over pretrained models with its interval."""
    return f"{mean_and_interval(values, form)} (n = {len(values)})" if len(values) > 1 else "-"


def mean_over_starts(rows: list[Row], figure: Callable[[Row], float | None], form: str = ".2f") -> str:
    """The mean over pretrained models of the mean over their fine-tunes; rows without the figure are left out."""
    found = [[value for value in map(figure, of) if value is not None] for of in by_start(rows)]
    return over_starts([mean(values) for values in found if values], form)


def tau_table(rows: list[Row]) -> str:
    """Does sharpness go with accuracy half way, and with failure?"""
    lines = []
    for name in ["straggler", *rows[0]["sharp"]["0.5"]]:
        line = [name]
        for share, figure in itertools.product(
            ("0.5", "1"), (lambda row: row["moved"][5], lambda row: row["gain"]["value"])
        ):
            taus = []
            for of in by_start(rows):
                values = [row["sharp"][share][first(row, "reset") if name == "straggler" else name] for row in of]
                taus.append(correlation(values, [figure(row) for row in of]).tau.value)
            line.append(over_starts(taus, "+.2f"))
        lines.append(line)
    return markdown(
        ["layer", "a = 0.5: tau, OOD at 0.5", "a = 0.5: tau, gain", "a = 1: tau, OOD at 0.5", "a = 1: tau, gain"], lines
    )


def first(row: Row, way: str) -> str:
    """The straggler that a way of looking finds."""
    return str(next(iter(row[way])))


def remedy_table(rows: list[Row]) -> str:
    """What each remedy changes at a = 0.5, and against the plain path at equal accuracy in distribution."""

    def half(row: Row, name: str) -> float:
        return 100 * float(row["remedy"][name][1][5] - row["reported"][5])

    def equal(row: Row, name: str) -> float | None:
        ours, plain = at_equal(*row["remedy"][name], AT_ID), at_equal(row["clean"], row["reported"], AT_ID)
        return None if ours is None or plain is None else 100 * (ours - plain)

    lines = [
        [
            name,
            mean_over_starts(rows, partial(half, name=name)),
            mean_over_starts(rows, lambda row, name=name: 100 * row["remedy"][name][0][5], ".1f"),
            mean_over_starts(rows, partial(equal, name=name)),
            str(sum(equal(row, name) is not None for row in rows)),
        ]
        for name in rows[0]["remedy"]
    ]
    return markdown(
        ["remedy", "OOD gained at 0.5, points", "ID at 0.5, %", f"OOD gained at ID {AT_ID:.2f}", "paths that reach it"],
        lines,
    )


def summary(rows: list[Row]) -> str:
    """By learning rate."""
    lines = []
    for rate in RATES:
        of = [row for row in rows if row["rate"] == rate]
        barrier = [
            max(0.0, max((1 - a / 10) * r["clean"][0] + a / 10 * r["clean"][-1] - r["clean"][a] for a in range(11)))
            for r in of
        ]
        accuracies = [
            mean_over_starts(of, lambda row, which=which, at=at: 100 * row[which][at], ".1f")
            for which, at in (("clean", -1), ("moved", -1), ("moved", 5))
        ]
        lines.append(
            [
                f"{rate:g}",
                *accuracies,
                f"{sum(map(failed, of))} of {len(of)}",
                f"{max(barrier):.3f}",
                counted([first(row, "reset") for row in of]),
                counted([first(row, "critical") for row in of]),
            ]
        )
    header = ["rate", "ID, %", "OOD, %", "OOD at 0.5, %", "failures", "largest ID barrier", "straggler by reset"]
    return markdown([*header, "by criticality"], lines)


def counted(names: list[str]) -> str:
    """Layers by how often they are first."""
    return ", ".join(f"{name}: {names.count(name)}" for name in sorted(set(names), key=names.count, reverse=True))


def main() -> None:
    """Find the rows that are missing; the tables are written after each pretrained model."""
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "stragglers.jsonl")
    every: list[Row] = []
    for seed in SEEDS:
        start = cache(partial(Start, seed))
        every += [
            rows.get(f"{seed} {number:02d}", partial(row_of, start, setting, seed))
            for number, setting in enumerate(SETTINGS)
        ]
        (RESULTS / "stragglers.md").write_text(page(every, seed + 1), encoding="utf-8")


def row_of(start: Callable[[], Start], setting: dict[str, float], seed: int) -> Row:
    """A row; the pretrained model is made with the first."""
    return measured(start(), setting, seed)


def page(every: list[Row], starts: int) -> str:
    """The tables in words."""
    found = [row for row in every if row["clean"][-1] > 0.9]
    lost = [row for row in found if failed(row)]
    before = mean(100 * row["moved"][0] for row in every)
    return f"""# Straggler layers

`python -m tests.reproductions.stragglers`: fine-tunes of {starts} pretrained perceptrons, {len(found)} of {len(every)}
kept (accuracy in distribution above 90 %); all figures are of those. Before fine-tuning {before:.1f} % out of
distribution (five domains). The path failed in {len(lost)}: its gain out of distribution over the better end is not
above 0 by more than chance (5 %). 95 % intervals are over the pretrained models (n), of the mean over the fine-tunes of
each. Layers: 0, 2, 4 hidden, 6 the head.

{summary(found)}

## Does layer-wise sharpness tell?

Average, adaptive, rho 0.1. Accuracy out of distribution at 0.5, and the gain of the path: if sharp stragglers go with
failure, tau is below 0 and further from it than the whole's. Tau is taken within the fine-tunes of each model.

{tau_table(found)}

## The remedy, on the {len(lost)} failures

On the two domains that did not choose the straggler. The last column is against the plain path at a smaller weight
of the fine-tune, which has the same accuracy in distribution.

{remedy_table(lost) if len(lost) > 2 else "too few failures"}
"""


if __name__ == "__main__":
    main()
