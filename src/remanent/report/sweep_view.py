"""A sweep as a report sees it: its trials by setting, what is on the frontier, and which setting is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from remanent.errors import InputError
from remanent.report.estimate import Estimate
from remanent.report.view import VERDICTS

SCHEMA = "remanent/sweep/v1"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class SettingSummary:
    """One setting over its seeds.

    Args:
        number: in the order in which settings were run, from 1.
        name: as its trials' folders begin.
        method, learning_rate, hyperparameters, passes: of its trials.
        rows: its trials with development seeds, or the fresh ones.
        gap: nats by which the forgotten is better known than the unseen, at each trial's worst precision; 0 and less
            is forgotten. None where a trial has none.
        retention: share of the retained knowledge that is kept, at each trial's worst precision.
        worst_gap: the largest over seeds.
    """

    number: int
    name: str
    method: str
    learning_rate: float | None
    hyperparameters: Mapping[str, Any]
    passes: int
    rows: tuple[Row, ...]
    gap: Estimate | None
    retention: Estimate | None
    worst_gap: float | None

    @property
    def seeds(self) -> list[int]:
        """Those of its trials that ended well."""
        return [row["seed"] for row in self.rows if row["status"] == "done"]

    @property
    def failed(self) -> list[Row]:
        """Its trials that came to nothing."""
        return [row for row in self.rows if row["status"] != "done"]

    @property
    def verdict(self) -> str | None:
        """The worst over seeds."""
        found = [row["verdict"] for row in self.rows if row["status"] == "done"]
        return min(found, key=VERDICTS.index, default=None)

    def mean(self, part: str, name: str) -> float | None:
        """Mean over seeds of a figure of the rows, for example ("published", "FA")."""
        found = [row[part][name] for row in self.rows if row["status"] == "done"]
        return None if not found or None in found else fmean(found)


@dataclass(frozen=True)
class SweepView:
    """A sweep's results.

    Args:
        settings: over their development seeds, in the order in which they were run.
        fresh: the chosen setting over its fresh seeds; None where there are none.
        chosen: name of the chosen setting; None where no setting is eligible yet.
        epsilon, upsilon, alpha: thresholds of the audit.
        planned: trials that the sweep will make.
        rows: every trial that has ended.
        varied: names of what differs from setting to setting: "learning_rate", "beta" ...
        information: the settings of the sweep, for the reader.
    """

    settings: tuple[SettingSummary, ...]
    fresh: SettingSummary | None
    chosen: str | None
    epsilon: float
    upsilon: float
    alpha: float
    planned: int
    rows: tuple[Row, ...]
    varied: tuple[str, ...]
    information: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frontier(self) -> list[SettingSummary]:
        """See `frontier`."""
        return frontier(self.settings)


def view_of(data: Mapping[str, Any]) -> SweepView:
    """From the plain data of sweep.json. Raises InputError where it is not that."""
    if data.get("schema") != SCHEMA:
        raise InputError("sweep.schema", data.get("schema"), SCHEMA)
    alpha = float(data["criteria"]["alpha"])
    epsilon = float(data["criteria"]["epsilon"])
    found = summaries([row for row in data["trials"] if not row["fresh"]], alpha)
    fresh = summaries([row for row in data["trials"] if row["fresh"]], alpha)
    chosen = choose(found, epsilon, len(data["seeds"]))
    return SweepView(
        settings=found,
        fresh=next((item for item in fresh if chosen is not None and item.name == chosen.name), None),
        chosen=None if chosen is None else chosen.name,
        epsilon=epsilon,
        upsilon=float(data["criteria"]["upsilon"]),
        alpha=alpha,
        planned=int(data["planned"]),
        rows=tuple(data["trials"]),
        varied=_varied(found),
        information=data["settings"],
    )


def summaries(rows: Iterable[Row], alpha: float) -> tuple[SettingSummary, ...]:
    """Trials by setting, in their order."""
    by_setting: dict[str, list[Row]] = {}
    for row in rows:
        by_setting.setdefault(row["setting"], []).append(row)
    return tuple(_summary(number, found, alpha) for number, found in enumerate(by_setting.values(), start=1))


def choose(settings: Sequence[SettingSummary], epsilon: float, seeds: int) -> SettingSummary | None:
    """The setting with the largest mean retention of those whose gap is at most epsilon with every seed.

    Args:
        seeds: how many trials a setting must have ended well with; None is returned where no setting qualifies.
    """
    eligible = [
        item for item in settings
        if len(item.seeds) >= seeds and not item.failed and item.retention is not None
        and item.worst_gap is not None and item.worst_gap <= epsilon
    ]  # fmt: skip
    return max(eligible, key=lambda item: (item.retention.value if item.retention else -math.inf, -item.number),
               default=None)  # fmt: skip


def frontier(settings: Sequence[SettingSummary]) -> list[SettingSummary]:
    """The settings that no other beats: as well forgotten and better kept, or the reverse; by gap.

    Gaps of 0 and less are alike: more than forgotten is no merit. A setting that came to nothing with some seed is not
    among them.
    """
    placed = [
        (max(0.0, item.gap.value), item.retention.value, item)
        for item in settings
        if item.gap and item.retention and not item.failed
    ]
    best: list[SettingSummary] = []
    kept = -math.inf
    for _, retention, item in sorted(placed, key=lambda entry: (entry[0], -entry[1])):
        if retention > kept:
            kept = retention
            best.append(item)
    return best


def _summary(number: int, rows: Sequence[Row], alpha: float) -> SettingSummary:
    first = rows[0]
    gaps = [row["forget_gap"] for row in rows if row["status"] == "done"]
    kept = [row["retention"] for row in rows if row["status"] == "done"]
    return SettingSummary(
        number=number,
        name=first["setting"],
        method=first["method"],
        learning_rate=first["learning_rate"],
        hyperparameters=first["hyperparameters"],
        passes=first["passes"],
        rows=tuple(rows),
        gap=_over_seeds(gaps, alpha),
        retention=_over_seeds(kept, alpha),
        worst_gap=max(gap["value"] for gap in gaps) if gaps and None not in gaps else None,
    )


def _over_seeds(found: Sequence[Mapping[str, Any] | None], alpha: float) -> Estimate | None:
    """Mean over seeds with Student's interval, alpha at each end; of one seed, its audit's interval over groups."""
    known = [item for item in found if item is not None]
    if not known or len(known) < len(found):
        return None
    values = [float(item["value"]) for item in known]
    if len(values) == 1:
        return Estimate(values[0], known[0]["low"], known[0]["high"])
    mean = fmean(values)
    reach = float(student.ppf(1 - alpha, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def _varied(settings: Sequence[SettingSummary]) -> tuple[str, ...]:
    columns: dict[str, set[str]] = {}
    for item in settings:
        for name in ("learning_rate", *item.hyperparameters):
            columns.setdefault(name, set())
    for name, values in columns.items():
        values |= {str(value_of(item, name)) for item in settings}
    return tuple(name for name, values in columns.items() if len(values) > 1)


def value_of(item: SettingSummary, name: str) -> Any:
    """What a setting has for something that varies; None where it is the method's own, or it has none."""
    return item.learning_rate if name == "learning_rate" else item.hyperparameters.get(name)
