"""A sweep as a report sees it: its trials by setting, what is on the frontier, and which setting is chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from remanent.core.estimate import Estimate
from remanent.errors import InputError
from remanent.report import aggregates
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
        forget_nll, control_nll: where the gap is measured: mean NLL of the forgotten and of the unseen, in nats.
        attacked_gap: as the gap, under the attacks that were audited.
        worst_at: conditions at which the gap is largest, the most frequent first.
        seconds, peak_memory: of unlearning: mean over seeds, and the most, in bytes.
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
    forget_nll: float | None = None
    control_nll: float | None = None
    attacked_gap: Estimate | None = None
    worst_at: tuple[str, ...] = ()
    seconds: float | None = None
    peak_memory: int | None = None

    @property
    def steps(self) -> tuple[float, float] | None:
        """Updates to the model that was saved, and at most: means over seeds; None where there are none."""
        found = [(row["best_step"], row["planned_steps"]) for row in self.rows if row["status"] == "done"]
        if not found or None in (step for pair in found for step in pair):
            return None
        return fmean(step for step, _ in found), fmean(most for _, most in found)

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
        found = [row[part].get(name) for row in self.rows if row["status"] == "done"]
        return None if not found or None in found else fmean(found)


@dataclass(frozen=True)
class SweepView:
    """A sweep's results.

    Args:
        kind: "sweep" or "compare".
        settings: over their development seeds, in the order in which they were run.
        references: what they are measured to: the model before unlearning, and retrained ones.
        fresh: the chosen setting over its fresh seeds; None where there are none.
        chosen: name of the chosen setting; None where no setting is eligible yet.
        epsilon, upsilon, alpha: thresholds of the audit.
        planned: trials that the sweep will make.
        best: the chosen setting's trial that keeps most; None where none is chosen.
        rows: every trial that has ended.
        varied: names of what differs from setting to setting: "learning_rate", "beta" ...
        information: the settings of the sweep, for the reader.
    """

    kind: str
    settings: tuple[SettingSummary, ...]
    references: tuple[SettingSummary, ...]
    fresh: SettingSummary | None
    chosen: str | None
    epsilon: float
    upsilon: float
    alpha: float
    planned: int
    best: str | None
    rows: tuple[Row, ...]
    varied: tuple[str, ...]
    information: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frontier(self) -> list[SettingSummary]:
        """See `frontier`."""
        return frontier(self.settings)

    def harmonic_mean(self, item: SettingSummary) -> float | None:
        """`aggregates.harmonic_mean` of a setting's mean gap and mean retention; None where one is not known."""
        place = self._place(item)
        return None if place is None else aggregates.harmonic_mean(*place)

    @property
    def hypervolume(self) -> float | None:
        """`aggregates.hypervolume` of the frontier; None where the model before unlearning has no gap to lose."""
        places = [self._place(item) for item in self.frontier]
        known = [place for place in places if place is not None]
        return aggregates.hypervolume(known) if known else None

    @property
    def hypervolumes(self) -> dict[str, float]:
        """The same of each method's own settings, by its name; {} in a comparison and of one method."""
        methods = dict.fromkeys(item.method for item in self.settings)
        if self.kind == "compare" or len(methods) < 2:
            return {}
        own = {name: replace(self, settings=tuple(i for i in self.settings if i.method == name)) for name in methods}
        return {name: view.hypervolume for name, view in own.items() if view.hypervolume is not None}

    def speed_up(self, item: SettingSummary) -> float | None:
        """Seconds of retraining over those of a setting's unlearning, of the fastest retraining whose seeds all ended
        well; None where there is none, or no seconds are known."""
        retrained = [
            other.seconds for other in self.references if other.rows and not other.failed and other.seconds is not None
        ]
        return min(retrained) / item.seconds if retrained and item.seconds else None

    def _place(self, item: SettingSummary) -> tuple[float, float] | None:
        """Forgetting and retention of a setting."""
        before = next((other.gap for other in self.references if not other.rows), None)
        if before is None or item.gap is None or item.retention is None:
            return None
        forgotten = aggregates.forgetting(item.gap.value, before.value)
        return None if forgotten is None else (forgotten, item.retention.value)


def view_of(data: Mapping[str, Any]) -> SweepView:
    """From the plain data of sweep.json. Raises InputError where it is not that."""
    if data.get("schema") != SCHEMA:
        raise InputError("sweep.schema", data.get("schema"), SCHEMA)
    alpha = float(data["criteria"]["alpha"])
    epsilon = float(data["criteria"]["epsilon"])
    trials = [row for row in data["trials"] if not row.get("reference")]
    found = summaries([row for row in trials if not row["fresh"]], alpha)
    fresh = summaries([row for row in trials if row["fresh"]], alpha)
    retrained = summaries([row for row in data["trials"] if row.get("reference")], alpha)
    chosen = choose(found, epsilon, len(data["seeds"]))
    return SweepView(
        kind=data.get("kind", "sweep"),
        settings=found,
        references=(*_original(data["trials"]), *retrained),
        fresh=next((item for item in fresh if chosen is not None and item.name == chosen.name), None),
        chosen=None if chosen is None else chosen.name,
        epsilon=epsilon,
        upsilon=float(data["criteria"]["upsilon"]),
        alpha=alpha,
        planned=int(data["planned"]),
        best=None if chosen is None else best_of(chosen)["name"],
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
    able = [item for item in settings if len(item.seeds) >= seeds and eligible(item, epsilon)]
    return max(able, key=lambda item: (item.retention.value if item.retention else -math.inf, -item.number),
               default=None)  # fmt: skip


def eligible(setting: SettingSummary, epsilon: float) -> bool:
    """Whether the forgotten is forgotten within epsilon in each of the setting's trials, of which none failed."""
    forgotten = setting.worst_gap is not None and setting.worst_gap <= epsilon
    return bool(setting.seeds) and not setting.failed and setting.retention is not None and forgotten


def best_of(setting: SettingSummary) -> Row:
    """The trial of an eligible setting that keeps most."""
    return max(setting.rows, key=lambda row: row["retention"]["value"])


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


def _original(rows: Iterable[Row]) -> list[SettingSummary]:
    """The model before unlearning, which every trial's audit measured; in a list, which is empty where none ended."""
    for row in rows:
        gap = row.get("forget_gap_before")
        if gap is not None:
            nll = _nll(row, gap["condition"], "nll_before")
            return [
                SettingSummary(
                    number=0, name="original", method="original", learning_rate=None, hyperparameters={}, passes=0,
                    rows=(), gap=Estimate(gap["value"], gap["low"], gap["high"]), retention=Estimate(1.0),
                    worst_gap=gap["value"], forget_nll=nll.get("forget"), control_nll=nll.get("control"),
                    worst_at=(gap["condition"],),
                )
            ]  # fmt: skip
    return []


def _nll(row: Row, condition: str, field_: str = "nll") -> Mapping[str, float | None]:
    found: Iterable[Mapping[str, float | None]] = (
        item[field_] for item in row["conditions"] if item["name"] == condition
    )
    return next(iter(found), {})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _summary(number: int, rows: Sequence[Row], alpha: float) -> SettingSummary:
    first = rows[0]
    done = [row for row in rows if row["status"] == "done"]
    gaps = [row["forget_gap"] for row in done]
    kept = [row["retention"] for row in done]
    places = [gap["condition"] for gap in gaps if gap is not None]
    nll = [_nll(row, row["forget_gap"]["condition"]) for row in done if row["forget_gap"] is not None]
    peaks = [row["peak_memory"] for row in done if row.get("peak_memory") is not None]
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
        forget_nll=_mean([item.get("forget") for item in nll]),
        control_nll=_mean([item.get("control") for item in nll]),
        attacked_gap=_over_seeds([row["attacked_gap"] for row in done], alpha),
        worst_at=tuple(name for name, _ in Counter(places).most_common()),
        seconds=_mean([row.get("seconds") for row in done]),
        peak_memory=max(peaks, default=None),
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
