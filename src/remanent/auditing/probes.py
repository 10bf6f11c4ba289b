"""PGA's probes as a look: do hidden states tell what was forgotten from what was never seen, in groups held out?

Which probe and which depth tell most is not known beforehand, and the largest of many figures of pure noise is not 0.
So the largest of forgotten against unseen groups is held against the largest of unseen against other unseen ones,
chosen in the same way from as many figures: where there is nothing to find, their difference is 0 on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from remanent.auditing.cross_sequence import BATTERY, CONTEXTS, Compared
from remanent.auditing.evidence import CONTROL, FORGET
from remanent.auditing.intervals import Interval
from remanent.auditing.measure_names import PROBE_DISTANCE, PROBE_GAP, PROBE_GAP_MEAN, PROBED
from remanent.auditing.text_score import TextScore
from remanent.core.activations import decoder_layers, even_depths
from remanent.core.probe import Fit
from remanent.data.record import Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

# Pairs of groups: one is left out at a time, and each is a fit at every depth. With three a bound for 5% missed 9% of
# the time in simulation.
LEAST, MOST = 6, 16
RECORDS = 3  # of a group, each in every context
DEPTHS = 12  # at even distances, the last layer's among them

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Probes:
    """Fits a linear probe at each depth, or the whole battery.

    Args:
        battery: whether all five attackers are fitted.
    """

    battery: bool = False
    alone = True

    @property
    def fits(self) -> Mapping[str, Fit]:
        """Name -> how a probe is fitted."""
        return BATTERY if self.battery else {"linear": BATTERY["linear"]}

    def given(self, named: Mapping[str, Sequence[Record]]) -> Probes:
        """The look. Raises InputError where forget or control have too few groups to leave one out."""
        counts = [len({record.group for record in named.get(name, ())}) for name in (FORGET, CONTROL)]
        if counts[0] < LEAST or counts[1] < 2 * LEAST:
            found = f"{'probe-battery' if self.battery else 'probe'}, forget of {counts[0]} and control of {counts[1]}"
            expected = f"a forget set of at least {LEAST} groups and a control of at least {2 * LEAST}, in two halves"
            raise InputError("at", f"{found} groups", expected)
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records passed through the model, and fits, at most."""
        pairs = min(MOST, len({record.group for record in named.get(FORGET, ())}))
        return pairs * (3 * RECORDS * len(CONTEXTS) + 2 * DEPTHS * len(self.fits))

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Of each pair of groups the accuracy of every probe at every depth, where the pair was held out.

        Under FORGET those of forgotten against unseen groups, named by the forgotten one; under CONTROL those of unseen
        groups, named by the one of the first half, against the second half. One figure a group, not a record.
        """
        sets = {name: measurer.sets[name].records for name in (FORGET, CONTROL)}
        count = min(MOST, len(_groups(sets[FORGET])), len(_groups(sets[CONTROL])) // 2)
        forget, control = _some(sets[FORGET], count), _some(sets[CONTROL], 2 * count)
        advance = measurer.on_batch or (lambda done: None)
        with measurer.at(condition) as model:
            layers = len(decoder_layers(model))
            depths = even_depths(layers, min(DEPTHS, layers))
            how = {"records_per_pass": measurer.batch_size, "on_batch": advance, "max_length": measurer.max_length}
            how["autocast"] = measurer.autocast
            compared = Compared.of(model, measurer.tokenizer, forget, control, CONTEXTS, depths, **how)
        finite = all(bool(part.isfinite().all()) for parts in compared.states.values() for part in parts)
        values: dict[str, list[dict[str, float]]] = {name: [{} for _ in range(count)] for name in sets}
        for kind, fit in self.fits.items():
            for depth in depths:
                gap = compared.gap(depth, fit, 0, 0) if finite else None
                for name in sets:
                    side = None if gap is None else gap.taught if name == FORGET else gap.unseen
                    for place, figures in enumerate(values[name]):
                        figures[f"{PROBED}{kind}/{depth}"] = math.nan if side is None else side.groups[f"pair{place}"]
                advance(2 * count)
        return {
            name: [
                TextScore(hashed, hashed, figures)
                for hashed, figures in zip(_hashes(measurer, name, compared.groups[row]), values[name], strict=True)
            ]
            for row, name in enumerate((FORGET, CONTROL))
        }


def probe_intervals(
    taught: Sequence[TextScore],
    unseen: Sequence[TextScore],
    generator: np.random.Generator,
    alpha: float,
    resamples: int,
) -> dict[tuple[str, str], Interval]:
    """(records, name) -> measure, with bounds by a bootstrap over pairs; {} where nothing was probed.

    A figure is |2 accuracy - 1|, so that an answer that must be turned round counts; the largest is that over all
    probes and depths, found anew in each draw. Not a number where states were not finite.

    Args:
        taught, unseen: a score for each pair, as `Probes` gives them.
        generator: draws pairs, of each side for itself.
        alpha: one-sided error of each end.
        resamples: draws.
    """
    sides = [_accuracies(scores) for scores in (taught, unseen)]
    if not all(side.size for side in sides):
        return {}
    whole = [_far(side, np.ones((1, len(side)))) for side in sides]
    counts = [generator.multinomial(len(side), np.full(len(side), 1 / len(side)), resamples) for side in sides]
    drawn = [_far(side, count.astype(np.float64)) for side, count in zip(sides, counts, strict=True)]

    def interval(values: Sequence[Array], least: float = -1.0) -> Interval:
        value, low, high = float(values[0][0]), *np.quantile(values[1], [alpha, 1 - alpha])
        # A largest figure is larger still in most draws, on the side with less to find by more. So each end is the
        # further of the percentile and of the same moved by what the draws' mean lies off.
        off = min(0.0, value - values[1].mean()), max(0.0, value - values[1].mean())
        if math.isnan(value):
            return Interval(value, value, value)
        return Interval(value, float(max(least, low + off[0])), float(min(1.0, high + off[1])))

    best = [[side.max(axis=1) for side in part] for part in (whole, drawn)]
    mean = [[side.mean(axis=1) for side in part] for part in (whole, drawn)]
    return {
        (FORGET, PROBE_DISTANCE): interval([part[0] for part in best], 0.0),
        (CONTROL, PROBE_DISTANCE): interval([part[1] for part in best], 0.0),
        (FORGET, PROBE_GAP): interval([one - other for one, other in best]),
        (FORGET, PROBE_GAP_MEAN): interval([one - other for one, other in mean]),
    }


def _accuracies(scores: Sequence[TextScore]) -> Array:
    """(pairs, probes and depths)."""
    names = [name for name in scores[0].values if name.startswith(PROBED)] if scores else []
    return np.array([[score.values[name] for name in names] for score in scores], dtype=np.float64)


def _far(accuracies: Array, counts: Array) -> Array:
    """|2 accuracy - 1| of each draw of pairs, (draws, probes and depths)."""
    found: Array = np.abs(2 * (counts @ accuracies) / counts.sum(axis=1, keepdims=True) - 1)
    return found


def _groups(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record.group for record in records))


def _some(records: Sequence[Record], groups: int) -> list[Record]:
    """The first records of the first groups."""
    chosen = _groups(records)[:groups]
    return [record for group in chosen for record in [item for item in records if item.group == group][:RECORDS]]


def _hashes(measurer: Measurer, name: str, groups: Sequence[str]) -> list[str]:
    """The keyed hash of each different group, in order."""
    part = measurer.sets[name]
    hashed = {record.group: group for record, (_, group) in zip(part.records, part.hashes, strict=True)}
    return [hashed[group] for group in dict.fromkeys(groups)]
