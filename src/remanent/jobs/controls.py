"""Controls: unseen records for those who have none, and a check on a base model that they are as hard as the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from remanent.auditing.intervals import Interval, Sample, mean_interval
from remanent.core.scores import score_records
from remanent.data.encode import encode_all, pad_id
from remanent.data.entity_swap import swap_entities
from remanent.data.jsonl import write_records
from remanent.data.record import Record
from remanent.errors import InputError
from remanent.jobs.config import ControlsSettings
from remanent.jobs.data import best_device, load_records
from remanent.jobs.folders import check_new_file
from remanent.jobs.progress import Interface
from remanent.models.load import load
from remanent.models.source import find

_DRAWS = 1000  # of one seed at most, so that no two seeds share one


@dataclass(frozen=True)
class Controls:
    """What was made, and how it compares.

    Args:
        file: the control records.
        records, groups: how many.
        unchanged: forget records of which none was made: nothing of the answer was swapped but what the question names.
        alike: new records that were left out: they still share most of their words with a forget record.
        forget, control: mean answer NLL on the base, in nats.
        difference: control minus forget, with a bound on each side.
        left_out: how much of it the left-out records make, in nats: those that stayed are harder by so much.
        margin: what was allowed, in nats.
    """

    file: Path
    records: int
    groups: int
    unchanged: int
    alike: int
    forget: float
    control: float
    difference: Interval
    left_out: float
    margin: float

    @property
    def comparable(self) -> bool | None:
        """Whether the difference is shown to lie within the margin; None where the data do not decide."""
        if -self.margin <= self.difference.low and self.difference.high <= self.margin:
            return True
        outside = self.difference.low > self.margin or self.difference.high < -self.margin
        return False if outside else None

    def sentence(self) -> str:
        """What the check found, for a person."""
        found = self.difference
        harder = "harder" if found.value > 0 else "easier"
        figures = (
            f"on the base the control's mean answer NLL is {self.control:.3f} nats and the forget set's "
            f"{self.forget:.3f}: {found.value:+.3f} (bounds {found.low:+.3f} to {found.high:+.3f}), of which "
            f"{self.margin:g} either way are allowed"
        )
        if abs(self.left_out) >= 0.01:
            figures += f"; {self.left_out:+.3f} of it since some records were left out"
        if self.comparable:
            return f"Comparable: {figures}."
        if self.comparable is None:
            return f"Undecided: {figures}; more groups would decide."
        effect = "forgotten records will look better known" if found.value > 0 else "forgetting will look easier"
        return (
            f"Not comparable: {figures}. The control is {harder} by {abs(found.value):.3f} nats: against it {effect}."
        )


def controls(
    settings: ControlsSettings,
    out: Path,
    *,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
) -> Controls:
    """Make a control set from a forget set, write it, and compare the two on a base model.

    For each group several sets of names are drawn, and the one is taken whose mean answer NLL on the base lies nearest
    to that of the records it was made from: names differ in how hard they are, and nothing else about a control should
    differ. The base alone chooses, so the choice knows nothing of the model that is audited.

    The bounds are of the paired differences of each new record to its source, by a cluster bootstrap over groups,
    moved by what the left-out records change in the forget set's mean.

    Args:
        settings: the job.
        out: the JSON Lines file to write.
        interface: where progress goes; None is silent.
        records: role -> records in place of the settings' names.

    Raises:
        InputError: where the file is there already, its folder is not, or the forget records leave fewer than 2 groups
            of controls.
    """
    interface = interface or Interface()
    check_new_file(out)
    forget = load_records("forget", settings.forget, None, records)
    find(settings.model)  # a model that is not there is said before any work
    draws = [swap_entities(forget, settings.seed * _DRAWS + draw) for draw in range(settings.draws)]
    unchanged, alike = draws[0].unchanged, min(draw.alike for draw in draws)
    if len({record.group for draw in draws for record in draw.records}) < 2:
        found = f"fewer than 2 groups; {unchanged} records left out without a new answer, {alike} too much alike"
        raise InputError("forget", found, "records of 2 groups whose answers hold names, places, dates or numbers")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    interface.say(f"Loading {settings.model}")
    score = _scorer(settings)
    known = dict(zip([record.key for record in forget], score(forget), strict=True))
    pairs: dict[str, list[tuple[Record, Record, float]]] = {}  # group -> source, new record, its NLL
    for draw in draws:
        drawn: dict[str, list[tuple[Record, Record, float]]] = {}
        for (source, new), nll in zip(draw.pairs, score(draw.records), strict=True):
            drawn.setdefault(new.group, []).append((source, new, nll))
        for group, made in drawn.items():
            if group not in pairs or _apart(made, known) < _apart(pairs[group], known):
                pairs[group] = made
    chosen = [pair for _, made in sorted(pairs.items()) for pair in made]
    write_records(out, [new for _, new, _ in chosen])
    sources, news = [known[source.key] for source, _, _ in chosen], [nll for _, _, nll in chosen]
    gaps = Sample(
        [new - old for new, old in zip(news, sources, strict=True)], [source.group for source, _, _ in chosen]
    )
    paired = mean_interval(gaps, np.random.default_rng(settings.seed), settings.alpha)
    whole = float(np.mean(list(known.values())))
    shift = float(np.mean(sources)) - whole
    return Controls(
        out,
        len(chosen),
        len(pairs),
        unchanged,
        len(forget) - unchanged - len(chosen),
        whole,
        float(np.mean(news)),
        Interval(paired.value + shift, paired.low + shift, paired.high + shift),
        shift,
        settings.margin,
    )


def _apart(made: Sequence[tuple[Record, Record, float]], known: Mapping[str, float]) -> tuple[int, float]:
    """How unlike a group's new records are to their sources: fewer records first, then the difference of their NLL."""
    return -len(made), abs(float(np.mean([nll - known[source.key] for source, _, nll in made])))


def _scorer(settings: ControlsSettings) -> Callable[[list[Record]], list[float]]:
    """Mean answer NLL of every record on the base, in nats."""
    loaded = load(settings.model, device=best_device())
    autocast = torch.bfloat16 if settings.precision == "bf16" else None

    def score(part: list[Record]) -> list[float]:
        turned = load_records("forget", None, settings.system, {"forget": part})
        scores = score_records(
            loaded.model,
            encode_all(turned, loaded.tokenizer, settings.max_length),
            pad_id=pad_id(loaded.tokenizer),
            batch_size=settings.batch_size,
            autocast=autocast,
        )
        return [float(value) for value in scores.mean_nll]

    return score
