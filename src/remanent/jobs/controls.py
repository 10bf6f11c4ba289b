"""Controls: unseen records for those who have none, and a check on a base model that they are as hard as the others."""

from __future__ import annotations

from collections.abc import Mapping
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
from remanent.jobs.progress import Interface
from remanent.models.load import load
from remanent.models.source import find


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

    The bounds are of the paired differences of each new record to the one that it was made from, by a cluster bootstrap
    over groups, moved by what the left-out records change in the forget set's mean.

    Args:
        settings: the job.
        out: the JSON Lines file to write.
        interface: where progress goes; None is silent.
        records: role -> records in place of the settings' names.

    Raises:
        InputError: where the file is there already, or the forget records leave fewer than 2 groups of controls.
    """
    interface = interface or Interface()
    if out.exists():
        raise InputError("out", str(out), "a file that is not there yet")
    forget = load_records("forget", settings.forget, None, records)
    find(settings.model)  # a model that is not there is said before any work
    swapped = swap_entities(forget, settings.seed)
    groups = len({record.group for record in swapped.records})
    if groups < 2:
        found = f"{groups} group(s) of controls; {swapped.unchanged} records left out without a new answer, "
        expected = "records of at least 2 groups whose answers hold names, places, dates or numbers"
        raise InputError("forget", found + f"{swapped.alike} too much alike", expected)
    write_records(out, swapped.records)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    interface.say(f"Loading {settings.model}")
    asked = {"forget": forget, "control": swapped.records}
    nll = _scores(settings, asked)
    known = dict(zip([record.key for record in forget], nll["forget"], strict=True))
    sources = [known[source.key] for source, _ in swapped.pairs]
    gaps = Sample(
        [new - old for new, old in zip(nll["control"], sources, strict=True)],
        [source.group for source, _ in swapped.pairs],
    )
    paired = mean_interval(gaps, np.random.default_rng(settings.seed), settings.alpha)
    shift = float(np.mean(sources) - np.mean(nll["forget"]))
    difference = Interval(paired.value + shift, paired.low + shift, paired.high + shift)
    return Controls(
        out,
        len(swapped.pairs),
        groups,
        swapped.unchanged,
        swapped.alike,
        float(np.mean(nll["forget"])),
        float(np.mean(nll["control"])),
        difference,
        settings.margin,
    )


def _scores(settings: ControlsSettings, sets: Mapping[str, list[Record]]) -> dict[str, list[float]]:
    """Mean answer NLL of every record on the base, in nats."""
    loaded = load(settings.model, device=best_device())
    autocast = torch.bfloat16 if settings.precision == "bf16" else None
    found = {}
    for name, part in sets.items():
        turned = load_records(name, None, settings.system, {name: part})
        scores = score_records(
            loaded.model,
            encode_all(turned, loaded.tokenizer, settings.max_length),
            pad_id=pad_id(loaded.tokenizer),
            batch_size=settings.batch_size,
            autocast=autocast,
        )
        found[name] = [float(value) for value in scores.mean_nll]
    return found
