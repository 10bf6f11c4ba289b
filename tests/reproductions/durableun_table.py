"""Quantization recovery as a table, over more seeds and ways than the tests have time for.

    python -m tests.reproductions.durableun_table [seeds]

writes results/durableun.md beside this file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch

from remanent.core.files import write_atomic

from .recovery import WAYS, Found, find, snapped_of, unlearned
from .world import World

COLUMNS: dict[str, Callable[[Found], float]] = {
    "forget NLL: full": lambda found: found.forget["full"],
    "int8": lambda found: found.forget["int8"],
    "int4-row": lambda found: found.forget["int4"],
    "control NLL: full": lambda found: found.control["full"],
    "at int4-row": lambda found: found.control["int4"],
    "FA: full": lambda found: found.forget_accuracy["full"],
    "FA: int4-row": lambda found: found.forget_accuracy["int4"],
    "RA: full": lambda found: found.retain_accuracy["full"],
    "RA: int4-row": lambda found: found.retain_accuracy["int4"],
    "moved > half a step": lambda found: found.moved,
    "recovered: int8": lambda found: found.recovered("int8"),
    "recovered: int4-row": lambda found: found.recovered("int4"),
}


def table(seeds: int) -> str:
    """The means over seeds of every way, and of the recovered share its range, as Markdown."""
    world = World()
    base = world.base()
    snapped = snapped_of(world, base)
    rows = {"original": [find(world, snapped, snapped)]}
    for name in WAYS:
        rows[name] = [find(world, snapped, unlearned(world, snapped, name, seed)) for seed in range(seeds)]
    taught = world.teach(base, "taught")
    plain = next(iter(WAYS))
    rows[f"{plain}, float original"] = [
        find(world, taught, unlearned(world, taught, plain, seed)) for seed in range(seeds)
    ]
    rows["retrained"] = [find(world, snapped, world.teach(base, "retain", seed=seed)) for seed in range(seeds)]
    lines = [f"| {' | '.join(['way', *COLUMNS, 'range over seeds'])} |", "|" + " --- |" * (len(COLUMNS) + 2)]
    for name, found in rows.items():
        known = name != "original"  # of which nothing was forgotten that could come back
        cells = [
            f"{mean(of(item) for item in found):.2f}" if known or "recovered" not in column else ""
            for column, of in COLUMNS.items()
        ]
        shares = [item.recovered("int4") for item in found] if known else []
        lines.append(f"| {' | '.join([name, *cells, f'{min(shares):.2f} to {max(shares):.2f}' if known else ''])} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it with the command that made it."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    found = table(seeds)
    print(found)
    command = f"python -m tests.reproductions.durableun_table {seeds}"
    text = f"""# Quantization recovery on a model that lies on the INT4 grid

Made by `{command}`: means over {seeds} seeds, on one thread. Answers are scored teacher forced, in nats per token; FA
and RA are token accuracies of forget and of the retain records that no method received. Every run stopped when forget
was no better known than unseen records: at full precision, and for `durable` and SAF at int4-row too. Recovered: the
share of the forgotten NLL that is back after rounding. Moved: the share of linear weights further than half an int4-row
step from the original.

{found}
"""
    folder = Path(__file__).with_name("results")
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "durableun.md", text)


if __name__ == "__main__":
    main()
