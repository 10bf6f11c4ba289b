"""Propose designs: from a table of scored designs to ones that should score higher, with IGNITE and without.

    python examples/propose_designs.py                          a made table; a minute on one core
    python examples/propose_designs.py --table mine.csv --score yield

A made table has a true score, which stands beside what the surrogate promised. For a table of your own, `remanent
propose` does the same and writes a file.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from remanent.designs import IGNITE, GradientAscent, propose
from remanent.designs.surrogate import PLAIN, Recipe
from remanent.designs.table import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="a CSV file with a header")
    parser.add_argument("--score", help="its column with the scores; higher is better")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=100, help="of the ascent: more of them trust the surrogate more")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    blocks: tuple[slice, ...] = ()
    if arguments.table:
        table = read_table(arguments.table, arguments.score)
        designs, scores, blocks = table.designs, table.scores, table.blocks
    else:
        designs, scores = made_table(arguments.seed)
    search = GradientAscent(Recipe(hidden=(256, 256), epochs=arguments.epochs), steps=arguments.steps)
    print(f"known: best {float(scores.max()):.3f}")
    ways = {"plain": PLAIN, "ignite": partial(IGNITE, coefficient=0.01, eta=0.0, rho=0.2)}
    for name, regularizer in ways.items():
        found = propose(
            designs,
            scores,
            search,
            blocks=blocks,
            count=min(32, len(scores)),
            seed=arguments.seed,
            regularizer=regularizer,
        )
        line = f"{name}: promised {float(found.promised[0]):.3f}, gradient norm {found.gradient_norm:.3f}"
        if not arguments.table:
            line += f", true {float(true_score(found.designs).max()):.3f}"
        print(line)


def true_score(designs: Tensor) -> Tensor:
    """A bowl with ripples, whose top is at 0.5."""
    return -((designs - 0.5) ** 2).sum(dim=1) + 0.1 * torch.sin(6 * designs).sum(dim=1)


def made_table(seed: int) -> tuple[Tensor, Tensor]:
    """300 designs of 6 numbers, none of them near the top."""
    generator = torch.Generator().manual_seed(seed)
    designs = torch.rand(600, 6, generator=generator, dtype=torch.float64) * 2 - 1.5
    scores = true_score(designs)
    kept = scores.argsort()[:300]
    return designs[kept], scores[kept]


if __name__ == "__main__":
    main()
