"""`python -m tests.reproductions.multi_task_study`: flat regions for two tasks at once, rule by rule, as a table.

Two digits lie over each other and are told apart by two heads on a shared trunk: 600 pairs to train on, 30 % of whose
labels are drawn at random, or none. Beside F-MTL and SAMO stand what they are to be held to: the rule alone, G-SAM and
L-SAM, SAMO along a random direction, and SAMO with the exact local gradient. Each row is written as soon as it is
found; a second call goes on. Some ten minutes on a core of its own.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from remanent.core.files import write_atomic
from remanent.core.gradient_rules import MGDA, CAGrad, FairGrad, LinearScalarization, PCGrad
from remanent.optim import FMTL, SAMO

from .study_rows import RESULTS, Rows, markdown, mean_and_interval

SEEDS = range(5)
RADIUS = 0.1  # the card's, as are the sizes, the steps and the learning rate: nothing was tuned here
RULES = {
    "linear": LinearScalarization(),
    "mgda": MGDA(),
    "pcgrad": PCGrad(),
    "cagrad": CAGrad(),
    "fairgrad": FairGrad(2.0, normalize=True),
}
WAYS = {
    "rule alone": (SAMO, {"rho": 0.0}),
    "F-MTL": (FMTL, {}),
    "L-SAM": (SAMO, {"beta": 1.0, "estimator": "exact", "match_norms": False}),
    "G-SAM": (SAMO, {"beta": 0.0}),
    "SAMO": (SAMO, {}),
    "SAMO, random z": (SAMO, {"estimator": "random"}),
    "SAMO, exact": (SAMO, {"estimator": "exact"}),
}
# (label noise, rule, ways), in order: what the claims stand on first.
PLAN = [
    (0.3, "linear", tuple(WAYS)),
    (0.3, "mgda", ("rule alone", "F-MTL", "L-SAM")),
    (0.3, "fairgrad", ("rule alone", "F-MTL", "G-SAM", "SAMO", "SAMO, random z")),
    (0.3, "pcgrad", ("rule alone", "F-MTL")),
    (0.3, "cagrad", ("rule alone", "F-MTL")),
    (0.0, "linear", tuple(WAYS)),
]
PAIRS = [
    ("F-MTL", "rule alone"),
    ("SAMO", "rule alone"),
    ("F-MTL", "L-SAM"),
    ("SAMO", "G-SAM"),
    ("SAMO", "SAMO, random z"),
    ("SAMO, exact", "SAMO"),
]


class TwoHeads(nn.Module):
    """A trunk of 70 thousand weights and two heads."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(144, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.heads = nn.ModuleDict({"first": nn.Linear(128, 10), "second": nn.Linear(128, 10)})

    def forward(self, inputs):
        features = self.trunk(inputs)
        return {name: head(features) for name, head in self.heads.items()}


def overlaid(images, labels, count, generator):
    """Pairs of digits, the larger pixel of each, on a canvas of 12 x 12."""
    chosen = torch.randint(len(images), (2, count), generator=generator)
    canvas = torch.zeros(2, count, 12, 12)
    canvas[0, :, :8, :8], canvas[1, :, 4:, 4:] = images[chosen[0]], images[chosen[1]]
    return canvas.amax(dim=0).flatten(1), {"first": labels[chosen[0]], "second": labels[chosen[1]]}


def pairs(seed, noise):
    """(inputs, labels) to train on, of which a share is drawn at random, and to test on, of other digits, without."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(images), generator=generator)
    images, labels = (images[order] / 16).float().reshape(-1, 8, 8), labels[order]
    inputs, seen = overlaid(images[:900], labels[:900], 600, generator)
    for name, right in seen.items():
        drawn = torch.rand(len(right), generator=generator) < noise
        seen[name] = torch.where(drawn, torch.randint(10, right.shape, generator=generator), right)
    return (inputs, seen), overlaid(images[900:], labels[900:], 2000, generator)


def losses_of(model, inputs, labels):
    return {name: nn.functional.cross_entropy(logits, labels[name]) for name, logits in model(inputs).items()}


def conflicting(model, inputs, labels):
    """Whether the two losses' gradients of the trunk have an inner product below 0, where the model is."""
    weights = list(model.trunk.parameters())
    losses = losses_of(model, inputs, labels)
    first, second = (torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses.values())
    return float(sum((a * b).sum() for a, b in zip(first, second, strict=True))) < 0


def trained(seed, noise, rule, way, steps=400):
    """Test accuracy in percent, mean of both tasks, and the share of conflicting steps of the last quarter."""
    (inputs, labels), (held_out, right) = pairs(seed, noise)
    torch.manual_seed(seed)
    model = TwoHeads()
    groups = [{"params": list(model.trunk.parameters())}]
    groups += [{"params": list(head.parameters()), "task": name} for name, head in model.heads.items()]
    kind, options = WAYS[way]
    options = {"rho": RADIUS, **options}
    optimizer = kind(groups, torch.optim.SGD, RULES[rule], lr=0.05, momentum=0.9, model=model, seed=seed, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    conflicts = []
    for step in range(steps):
        rows = torch.randint(len(inputs), (64,), generator=torch.Generator().manual_seed(1000 * seed + step))
        batch = inputs[rows], {name: values[rows] for name, values in labels.items()}
        if step >= 3 * steps // 4:
            conflicts.append(conflicting(model, *batch))
        optimizer.step(lambda batch=batch: losses_of(model, *batch))
        schedule.step()
    with torch.no_grad():
        found = [(logits.argmax(dim=1) == right[name]).float().mean() for name, logits in model(held_out).items()]
    return {"accuracy": 100 * float(sum(found)) / 2, "conflict": sum(conflicts) / len(conflicts)}


def main():
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "multi_task.jsonl")
    found = {}
    for noise, rule, ways in PLAN:
        for way in ways:
            found[noise, rule, way] = [
                rows.get(f"{noise}/{rule}/{way}/{seed}", lambda n=noise, r=rule, w=way, s=seed: trained(s, n, r, w))
                for seed in SEEDS
            ]
        write_atomic(RESULTS / "multi_task.md", "\n\n".join(report(found)) + "\n")
    return 0


def report(found):
    """What is there by now."""
    yield "# Flat regions for two tasks at once"
    yield (
        "Made by `python -m tests.reproductions.multi_task_study`: means over 5 seeds with their 95 % intervals by "
        "Student's t, on one thread. Two digits over each other, 600 pairs, an MLP of 70 thousand shared weights, 400 "
        "steps of SGD, rho 0.1 for all: the card's settings; nothing was tuned. Conflict is the share of steps, of the "
        "last quarter, whose two gradients of the shared weights have an inner product below 0, at w and on the step's "
        "batch. `SAMO, random z` puts a random direction in the place of the estimate; `SAMO, exact` the gradient."
    )
    lines = [
        [
            f"{100 * noise:.0f} %",
            rule,
            way,
            mean_and_interval([row["accuracy"] for row in runs], ".1f"),
            mean_and_interval([row["conflict"] for row in runs]),
        ]
        for (noise, rule, way), runs in found.items()
    ]
    yield markdown(["random labels", "rule", "way", "test accuracy, %", "conflict"], lines)
    yield "Differences in accuracy, seed by seed:"
    lines = []
    for noise, rule in dict.fromkeys((noise, rule) for noise, rule, _ in found):
        for one, other in PAIRS:
            if (noise, rule, one) in found and (noise, rule, other) in found:
                ones, others = ([row["accuracy"] for row in found[noise, rule, way]] for way in (one, other))
                difference = mean_and_interval([a - b for a, b in zip(ones, others, strict=True)], "+.1f")
                lines.append([f"{100 * noise:.0f} %", rule, f"{one} - {other}", difference])
    yield markdown(["random labels", "rule", "what", "points"], lines)


if __name__ == "__main__":
    sys.exit(main())
