"""SAM round AdamW with the ascent on a part of the batch: time and accuracy of the same steps, in one study.

    python -m tests.reproductions.cheap_ascent_study [SEEDS]

1000 digits to train on and 797 to test on with true labels, clean and with 40 % of the training labels wrong; an MLP
64-512-512-512-10, AdamW 1e-3 with a cosine, batches of 256, 100 epochs. The radius is 0.2, which sam_family_study has,
and nothing is chosen here. Time is that of the steps that train, of a way and of AdamW in turn, so that what the
machine does else is nobody's alone. Goes on where it was cut off (rows in results/cheap_ascent.jsonl).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.measure import seconds
from remanent.core.files import write_atomic
from remanent.optim import SAM

from .study_rows import RESULTS, Row, Rows, markdown, mean_and_interval
from .test_sam import accuracy, digits

BATCH, EPOCHS, RHO = 256, 100, 0.2
# Name -> the share of the batch, and SAM's further options. The last was added when the others had been seen.
WAYS: Mapping[str, tuple[float, Mapping[str, Any]]] = {
    "whole batch": (1.0, {}),
    "half": (0.5, {}),
    "a quarter": (0.25, {}),
    "an eighth": (0.125, {}),
    "a quarter, at every second step, whose direction the next one takes too": (0.25, {"every": 2, "between": "reuse"}),
}
NOISES = (0.4, 0.0)


class Run:
    """A network, its data and its optimizer.

    Args:
        seed: of images, labels, weights and batches.
        noise: share of the training labels that are wrong.
        rho: 0 is AdamW alone, bit for bit and in one pass.
        share: of a batch that the ascent sees, its first records.
        options: of SAM.
    """

    def __init__(self, seed: int, noise: float, rho: float, share: float = 1.0, **options: Any) -> None:
        self.data, self.test = digits(seed, noise)
        torch.manual_seed(seed)
        sizes = (64, 512, 512, 512, 10)
        layers = [part for size in pairwise(sizes) for part in (nn.Linear(*size), nn.ReLU())]
        self.model = nn.Sequential(*layers[:-1])
        parameters = self.model.parameters()
        self.optimizer = SAM(parameters, torch.optim.AdamW, rho=rho, model=self.model, lr=1e-3, fused=True, **options)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, EPOCHS)
        self.share = share

    def step(self, rows: torch.Tensor) -> None:
        """One update."""
        part = rows[: max(1, round(self.share * len(rows)))]
        self.optimizer.step(partial(self.loss, rows), ascent=partial(self.loss, part))

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Mean loss of some images, passed backward."""
        loss = nn.functional.cross_entropy(self.model(self.data[0][rows]), self.data[1][rows])
        loss.backward()
        return loss


def measured(seed: int, noise: float, share: float, options: Mapping[str, Any]) -> Row:
    """Train both ways, some steps of each in turn."""
    ways = {"AdamW": Run(seed, noise, 0.0), "SAM": Run(seed, noise, RHO, share, **options)}
    ratios = []
    for _ in range(EPOCHS):
        spent = dict.fromkeys(ways, 0.0)
        for rows in torch.randperm(len(ways["SAM"].data[0])).split(BATCH):
            for name, run in ways.items():
                spent[name] += seconds(partial(run.step, rows))
        ratios.append(spent["SAM"] / spent["AdamW"])
        for run in ways.values():
            run.schedule.step()
    return {"time": statistics.median(ratios), **{name: accuracy(run.model, run.test) for name, run in ways.items()}}


def table(rows: dict[tuple[str, float], list[Row]], seeds: int) -> str:
    """The page."""
    lines = []
    for share in WAYS:
        line = [share]
        for noise in NOISES:
            here, whole = rows[share, noise], rows["whole batch", noise]
            line += [
                mean_and_interval([row["SAM"] for row in here], ".1f"),
                mean_and_interval([row["SAM"] - row["AdamW"] for row in here], "+.1f"),
                ""
                if share == "whole batch"
                else mean_and_interval([a["SAM"] - b["SAM"] for a, b in zip(here, whole, strict=True)], "+.1f"),
            ]
        times = [row["time"] for noise in NOISES for row in rows[share, noise]]
        lines.append([*line, f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"])
    header = ["the ascent sees"]
    for noise in ("40 % noise", "clean"):
        header += [f"{noise}: accuracy, %", "over AdamW", "over the whole batch's"]
    alone = {noise: [row["AdamW"] for row in rows["whole batch", noise]] for noise in NOISES}
    return f"""# SAM's ascent on a part of the batch

Made by `python -m tests.reproductions.cheap_ascent_study {seeds}`: 1000 digits, an MLP 64-512-512-512-10, AdamW 1e-3,
cosine, batches of {BATCH}, {EPOCHS} epochs, rho {RHO}; accuracy on 797 images with true labels. Mean over {seeds} seeds
(of images, noise and weights) and its 95 % interval by Student's t, differences paired by seed, in points. Time: CPU
time of a step over AdamW's in turn, the median of a run's {EPOCHS} epochs; median, least and most over the runs.
AdamW alone: {mean_and_interval(alone[0.4], ".1f")} with noise, {mean_and_interval(alone[0.0], ".1f")} without.

{markdown([*header, "time"], lines)}
"""


def main() -> None:
    torch.set_num_threads(1)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = Rows(RESULTS / "cheap_ascent.jsonl")
    found: dict[tuple[str, float], list[Row]] = {}
    for seed in range(seeds):
        for noise in NOISES:
            for share, way in WAYS.items():
                make = partial(measured, seed, noise, *way)
                found.setdefault((share, noise), []).append(rows.get(f"{share} | noise {noise} | seed {seed}", make))
    write_atomic(RESULTS / "cheap_ascent.md", table(found, seeds))


if __name__ == "__main__":
    main()
