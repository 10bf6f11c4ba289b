"""Propose: designs that should score higher than those of a table, from the table alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from remanent.designs import IGNITE, SEARCHES
from remanent.designs import propose as find
from remanent.designs.propose import Search
from remanent.designs.surrogate import PLAIN, Regularizer
from remanent.designs.table import read_table
from remanent.errors import InputError
from remanent.jobs.folders import check_new_file
from remanent.jobs.progress import Interface
from remanent.jobs.propose_config import ProposeSettings

_PAPERS = {
    "ignite": {"coefficient": 1e-3, "eta": 1e-3, "rho": 0.05, "epsilon": 0.1},
    "ignite-2": {"coefficient": 0.01, "eta": 0.0, "rho": 0.2},
}
_COUNT = 128


@dataclass(frozen=True)
class Proposed:
    """What was proposed.

    Args:
        file: the proposals, a CSV file.
        known: designs in the table.
        best: the best score among them.
        proposals, distinct, new: how many; how many differ; how many of these are not in the table.
        promised: mean prediction of the surrogates for the most promising.
        outside: proposals with a value outside the table's range.
        gradient_norm: of the surrogates' mean prediction, on the table.
    """

    file: Path
    known: int
    best: float
    proposals: int
    distinct: int
    new: int
    promised: float
    outside: int
    gradient_norm: float

    def sentences(self) -> list[str]:
        """What a person should know of it."""
        return [
            f"{self.file}: {self.proposals} proposals, {self.distinct} of them distinct, {self.new} not in the table.",
            f"The best of {self.known} known designs scores {self.best:.6g}; the surrogate promises "
            f"{self.promised:.6g}. A search picks what its surrogate overrates: only a measurement tells.",
            f"{self.outside} proposals leave the table's range somewhere, where the surrogate knows least.",
        ]


def propose(settings: ProposeSettings, out: Path, *, interface: Interface | None = None) -> Proposed:
    """Train surrogates on a table, search them, and write what was found.

    Args:
        settings: the job.
        out: the CSV file to write.
        interface: where progress goes; None is silent.

    Raises:
        InputError: where the file is there already, or a setting does not fit the table.
        DataError: where a line of the table is wrong.
        MissingExtraError: where the search needs a package that is not installed.
    """
    interface = interface or Interface()
    check_new_file(out)
    regularizer, search = _regularizer(settings), _search(settings)
    table = read_table(Path(settings.table), settings.score, settings.skip.split(",") if settings.skip else ())
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with interface.bar("train") as advance:
        found = find(
            table.designs,
            -table.scores if settings.minimize else table.scores,
            search,
            blocks=table.blocks,
            count=min(_COUNT, len(table.scores)) if settings.count is None else settings.count,
            seed=settings.seed,
            regularizer=regularizer,
            on_epoch=lambda done, total: advance(done, total, ""),
        )
    table.write(out, found, minimize=settings.minimize)
    rows = {tuple(row) for row in table.rows(found.designs)}
    known = {tuple(row) for row in table.rows(table.designs)}
    promised = float(found.promised[0])
    return Proposed(
        file=out,
        known=len(table.scores),
        best=float(table.scores.min() if settings.minimize else table.scores.max()),
        proposals=len(found.designs),
        distinct=len(rows),
        new=len(rows - known),
        promised=-promised if settings.minimize else promised,
        outside=int((found.outside > 0).sum()),
        gradient_norm=found.gradient_norm,
    )


def _regularizer(settings: ProposeSettings) -> Regularizer:
    given = {name: getattr(settings, name) for name in ("coefficient", "rho")}
    given = {name: value for name, value in given.items() if value is not None}
    if settings.regularizer == "none":
        for name, value in given.items():
            raise InputError(name, value, "nothing: there is no regularizer")
        return PLAIN
    return partial(IGNITE, **{**_PAPERS[settings.regularizer], **given})


def _search(settings: ProposeSettings) -> Search:
    search: Any = SEARCHES[settings.search]()
    recipe = search.recipe
    if settings.width is not None:
        recipe = replace(recipe, hidden=(settings.width,) * len(recipe.hidden))
    if settings.epochs is not None:
        recipe = replace(recipe, epochs=settings.epochs)
    made: Search = replace(search, recipe=recipe)
    return made
