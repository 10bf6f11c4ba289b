"""Two tasks on one trunk: a gradient rule alone, and with flat regions (F-MTL, SAMO), on two digits over each other.

    python examples/multi_task.py               half a minute on one core; needs scikit-learn, for its digits
    python examples/multi_task.py --rule mgda   another rule

Prints each one's accuracy on held-out pairs, mean of both digits; 30 % of the labels that it learns from are random.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from remanent.core.gradient_rules import MGDA, CAGrad, LinearScalarization, PCGrad
from remanent.optim import FMTL, SAMO

RULES = {"linear": LinearScalarization(), "mgda": MGDA(), "pcgrad": PCGrad(), "cagrad": CAGrad()}
TASKS = ("upper", "lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", choices=RULES, default="pcgrad")
    parser.add_argument(
        "--rho", type=float, default=0.1, help="radius within which each task looks for its worst point"
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(arguments.seed)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(images), generator=generator)
    images, labels = (images[order] / 16).float().reshape(-1, 8, 8), labels[order]
    inputs, seen = pairs(images[:900], labels[:900], 600, generator)
    held_out, right = pairs(images[900:], labels[900:], 2000, generator)
    for values in seen.values():
        wrong = torch.rand(len(values), generator=generator) < 0.3
        values[wrong] = torch.randint(10, (int(wrong.sum()),), generator=generator)
    for name, kind, rho in (("alone", FMTL, 0.0), ("f-mtl", FMTL, arguments.rho), ("samo", SAMO, arguments.rho)):
        trunk, heads = train(inputs, seen, kind, arguments.rule, rho, arguments.steps, arguments.seed)
        with torch.no_grad():
            hits = [heads[task](trunk(held_out)).argmax(dim=1) == right[task] for task in TASKS]
        print(f"{name}: {100 * torch.stack(hits).float().mean():.1f} % right")


def pairs(images: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Two digits on a canvas of 12 x 12, the brighter pixel of each, and what they are."""
    chosen = torch.randint(len(images), (2, count), generator=generator)
    canvas = torch.zeros(2, count, 12, 12)
    canvas[0, :, :8, :8], canvas[1, :, 4:, 4:] = images[chosen[0]], images[chosen[1]]
    return canvas.amax(dim=0).flatten(1), dict(zip(TASKS, labels[chosen], strict=True))


def train(
    inputs: Tensor, labels: dict[str, Tensor], kind: type[FMTL | SAMO], rule: str, rho: float, steps: int, seed: int
) -> tuple[nn.Module, nn.ModuleDict]:
    """A shared trunk and a head for each digit; a rho of 0 is the rule alone."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(144, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    heads = nn.ModuleDict({task: nn.Linear(128, 10) for task in TASKS})
    groups = [{"params": list(trunk.parameters())}]
    groups += [{"params": list(head.parameters()), "task": task} for task, head in heads.items()]
    model = nn.ModuleList([trunk, heads])
    optimizer = kind(groups, torch.optim.SGD, RULES[rule], rho=rho, lr=0.05, momentum=0.9, model=model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (64,))

        def losses(rows: Tensor = rows) -> dict[str, Tensor]:
            features = trunk(inputs[rows])
            return {task: nn.functional.cross_entropy(heads[task](features), labels[task][rows]) for task in TASKS}

        optimizer.step(losses)
        schedule.step()
    return trunk, heads


if __name__ == "__main__":
    main()
