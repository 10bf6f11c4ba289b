"""Rows of a long study: each is written as soon as it is found, and is not found again by the next call."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from remanent.core.files import write_atomic
from remanent.jobs.config import UnlearnSettings

RESULTS = Path(__file__).with_name("results")
Row = dict[str, Any]
DEFAULT: str = UnlearnSettings.model_fields["method"].default  # of `remanent unlearn`
EPSILON = 0.25  # nats that what is forgotten may be better known than the unseen, at every precision


def data_folder() -> Path:
    """Where local copies of public data sets are looked for: REMANENT_DATA, or shared/data beside the repository."""
    return Path(os.environ.get("REMANENT_DATA") or Path(__file__).parents[3] / "shared" / "data")


class Rows:
    """Rows by name, in a file of JSON lines.

    Args:
        file: where they are kept.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self.found: dict[str, Row] = {row["name"]: row for row in map(json.loads, lines)}

    def get(self, name: str, make: Callable[[], Row]) -> Row:
        """The row of a name; made where it is not there yet."""
        if name not in self.found:
            print(f"{name} ...", file=sys.stderr, flush=True)
            self.found[name] = {"name": name, **make()}
            self.file.parent.mkdir(exist_ok=True)
            write_atomic(self.file, "".join(json.dumps(row) + "\n" for _, row in sorted(self.found.items())))
        return self.found[name]


def mean_and_range(values: list[float], form: str = ".2f") -> str:
    """Of a few seeds: their mean, smallest and largest; of one, its value."""
    if len(values) < 2:
        return "".join(f"{value:{form}}" for value in values)
    middle = sum(values) / len(values)
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"


def mean_and_interval(values: Sequence[float], form: str = ".2f") -> str:
    """Of two seeds or more: their mean and its 95% interval by Student's t."""
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{fmean(values):{form}} ± {half:{form.removeprefix('+')}}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
