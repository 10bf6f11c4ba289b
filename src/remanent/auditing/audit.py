"""The audit: saved models, loaded as saved, measured at every condition. Resumable, one measurement at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remanent.auditing.condition import Condition
from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    CONTROL_PARAPHRASED,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    RETRAINED,
    TEXT,
    Evidence,
    Measurement,
    measurement_from_dict,
    measurement_to_dict,
)
from remanent.auditing.measure import ATTACKED, AuditSet, Measurer, with_rouge
from remanent.core.displacement import AdapterOff, Rounding
from remanent.core.files import read_json, write_json
from remanent.core.quantization import movement
from remanent.core.run_folder import versions
from remanent.core.selection import LINEARS
from remanent.core.tensors import TensorFolder
from remanent.core.weights import Weights
from remanent.data.record import Record
from remanent.errors import InputError, IntegrityError
from remanent.models.load import Loaded

Loader = Callable[[], Loaded]


@dataclass(frozen=True)
class AuditData:
    """What is asked. Retain and control are their audit splits, which no method received.

    Args:
        forget: the records that were to be forgotten; () asks only what should stay.
        retain: records to be kept.
        control: records of the same kind that no model saw; () leaves the verdict without its yardstick.
        text: general text.
    """

    forget: Sequence[Record] = ()
    retain: Sequence[Record] = ()
    control: Sequence[Record] = ()
    text: Sequence[Record] = ()

    def __post_init__(self) -> None:
        if not self.forget and not self.retain:
            raise InputError("forget, retain", "neither", "records that were to be forgotten, or to be kept")

    def named(self) -> dict[str, list[Record]]:
        """Name in the evidence -> records; only those that are there."""
        sets = {
            FORGET: list(self.forget),
            PARAPHRASED: _in_other_words(self.forget),
            RETAIN: list(self.retain),
            CONTROL: list(self.control),
            CONTROL_PARAPHRASED: _in_other_words(self.control) if self.forget else [],
            TEXT: list(self.text),
        }
        return {name: records for name, records in sets.items() if records}


@dataclass(frozen=True)
class AuditPlan:
    """How it is asked.

    Args:
        conditions: full precision first.
        settings: thresholds and whatever else explains the figures; becomes `Evidence.settings`.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic; None is the weights' own.
        generate: records per set that are answered freely, at full precision and at the worst; 0 generates nothing.
        max_length: longest record, in tokens; None cuts none.
        notes: sentences a reader must know.
    """

    conditions: Sequence[Condition]
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    autocast: torch.dtype | None = None
    generate: int = 50
    max_length: int | None = None
    notes: tuple[str, ...] = ()


def _in_other_words(records: Sequence[Record]) -> list[Record]:
    return [other for record in records if (other := record.paraphrased()) is not None]


# description, done, total: in records
OnProgress = Callable[[str, int, int], None]


def audit(
    subjects: Mapping[str, Loader],
    data: AuditData,
    plan: AuditPlan,
    hashed: Callable[[str], str],
    *,
    folder: Path | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Evidence:
    """Measure every subject at every condition, one model in memory at a time.

    Args:
        subjects: AUDITED and, where they exist, ORIGINAL and RETRAINED -> a function that loads the saved files.
        data: what is asked.
        plan: how.
        hashed: keyed hash of a record's key or group.
        folder: where finished measurements are kept, so that an audit that was cut off goes on; None keeps none.
        on_progress: called as records are scored.
    """
    if AUDITED not in subjects:
        raise InputError("subjects", ", ".join(subjects), f"a loader for '{AUDITED}'")
    named = data.named()
    for condition in plan.conditions:
        if condition.attack is not None and condition.attack.overlap and FORGET not in named:
            raise InputError("at", condition.info.name, "a forget set, which relearning on a part of it needs")
        if condition.attack is not None and not condition.attack.overlap and TEXT not in named:
            raise InputError("at", condition.info.name, "general text to relearn from")
        if condition.attack is not None and condition.attack.overlap:
            for name in (FORGET, *((CONTROL,) if ORIGINAL in subjects and CONTROL in named else ())):
                if len({record.group for record in named[name]}) < 2:
                    expected = f"{name} records of at least 2 groups, one to relearn and one to ask"
                    raise InputError("at", condition.info.name, expected)
    measurements: list[Measurement] = []
    digests: dict[str, Mapping[str, str]] = {}
    moved: dict[str, Mapping[str, float]] = {}
    worst, audited_path = "", None
    for subject in (AUDITED, ORIGINAL, RETRAINED):
        if subject not in subjects:
            continue
        loaded = subjects[subject]()
        digests[subject] = loaded.source.files()
        store = _Store(folder, subject, digests[subject], named, plan, hashed, str(loaded.model.device))
        if subject == AUDITED and any(isinstance(item.displacement, AdapterOff) for item in plan.conditions):
            AdapterOff().moving(Weights.of(loaded.model))  # refuses a model without an adapter before any measuring
        # The original is what forgetting is measured from: its own paraphrased answers decide no line.
        asked = {name: part for name, part in named.items() if subject != ORIGINAL or name != PARAPHRASED}
        progress = _Counter(subject, on_progress, _work(plan, asked))
        sets = {
            name: AuditSet.of(records, loaded.tokenizer, hashed, plan.max_length) for name, records in asked.items()
        }
        measurer = Measurer(
            subject,
            loaded.model,
            loaded.tokenizer,
            sets,
            plan.batch_size,
            plan.autocast,
            progress.advance,
            loaded.source,
            plan.max_length,
        )
        found: list[Measurement] = []
        for condition in _of_subject(plan.conditions, subject, named):
            for seed in condition.seeds:
                found += store.kept(condition, seed, progress) or store.keep(
                    condition, seed, measurer.measure(condition, seed)
                )
        if subject == AUDITED:
            worst, audited_path = _worst(plan.conditions, found), loaded.source.path
        if subject == ORIGINAL:
            moved = _movement(plan.conditions, loaded.model, audited_path)
        found = _with_answers(found, measurer, plan, sorted({"full", worst} - {""}), store)
        measurements += found
    settings = {"compute_dtype": str(plan.autocast or "weights"), **plan.settings}
    infos = tuple(condition.info for condition in plan.conditions)
    return Evidence(infos, tuple(measurements), settings, digests, plan.notes, moved)


def _of_subject(conditions: Sequence[Condition], subject: str, named: Mapping[str, Any]) -> list[Condition]:
    """Attacks run on the reference alike: without a control there is nothing to ask the original under an attack."""
    if subject == ORIGINAL and CONTROL not in named:
        return [condition for condition in conditions if condition.attack is None]
    return list(conditions)


def _worst(conditions: Sequence[Condition], found: Sequence[Measurement]) -> str:
    """The precision at which the forget set is known best, or without one the retain set is known worst."""
    means: dict[str, float] = {}
    kinds = {condition.info.name: condition.info.kind for condition in conditions}
    forgot = any(item.records == FORGET for item in found)
    for item in found:
        if kinds[item.condition] == "precision" and item.records == (FORGET if forgot else RETAIN):
            mean = sum(score.nll for score in item.scores) / len(item.scores)
            means[item.condition] = mean if forgot else -mean
    return min(means, key=lambda name: means[name]) if means else ""


def _with_answers(
    found: list[Measurement], measurer: Measurer, plan: AuditPlan, names: Sequence[str], store: _Store
) -> list[Measurement]:
    if not plan.generate or not hasattr(measurer.model, "generate"):
        return found
    for condition in plan.conditions:
        if condition.info.name in names:
            rouge = store.kept_answers(condition) or store.keep_answers(
                condition, measurer.generate(condition, (FORGET, PARAPHRASED, RETAIN, CONTROL), plan.generate)
            )
            found = [with_rouge(item, rouge) if item.condition == condition.info.name else item for item in found]
    return found


def _movement(
    conditions: Sequence[Condition], original: nn.Module, audited: Path | None
) -> dict[str, Mapping[str, float]]:
    """How far the audited weights lie from the original's in steps of each rounding, weighted by size: no data used."""
    if audited is None or not TensorFolder.is_one(audited):
        return {}
    saved = TensorFolder(audited)
    linears = LINEARS.of(Weights.of(original))
    result: dict[str, Mapping[str, float]] = {}
    for condition in conditions:
        point = condition.displacement
        if condition.attack is not None or not isinstance(point, Rounding):
            continue
        if point.quantization.granularity == "element":
            continue
        sums: dict[str, float] = {}
        count = 0
        for name, before in linears.items():
            after = saved.get(name)
            if after is None or after.shape != before.shape:
                return {}
            count += before.numel()
            moved = movement(before.detach().float(), after.float(), point.quantization)
            for key, value in moved.items():
                sums[key] = sums.get(key, 0.0) + value * before.numel()
        result[condition.info.name] = {key: value / count for key, value in sums.items()}
    return result


def _work(plan: AuditPlan, named: Mapping[str, Sequence[Record]]) -> int:
    """Records to score on one subject, for the progress bar."""
    everything = sum(map(len, named.values()))
    attacked = sum(len(named.get(name, ())) for name in ATTACKED)
    scored = sum(
        everything if condition.attack is None else attacked * len(condition.seeds) for condition in plan.conditions
    )
    generated = sum(min(plan.generate, len(named.get(name, ()))) for name in (FORGET, PARAPHRASED, RETAIN, CONTROL))
    return scored + 2 * generated


class _Counter:
    """Counts scored records for the progress bar."""

    def __init__(self, subject: str, on_progress: OnProgress, total: int) -> None:
        self.subject, self.on_progress, self.total, self.done = subject, on_progress, total, 0

    def advance(self, records: int) -> None:
        self.done += records
        self.on_progress(self.subject, min(self.done, self.total), self.total)


class _Store:
    """Finished measurements of one subject on disk, under a key that names everything they depend on."""

    def __init__(
        self,
        folder: Path | None,
        subject: str,
        files: Mapping[str, str],
        named: Mapping[str, Sequence[Record]],
        plan: AuditPlan,
        hashed: Callable[[str], str],
        device: str,
    ) -> None:
        key = json.dumps(
            [
                dict(files),
                {name: [asdict(record) for record in records] for name, records in named.items()},
                plan.batch_size,
                str(plan.autocast),
                plan.generate,
                plan.max_length,
                torch.get_num_threads(),
                device,
                versions(),
            ],
            sort_keys=True,
        )
        # Keyed, since a plain digest would let a reader of the folder test guesses of what was forgotten.
        digest = hashed(key)[:16]
        self.folder = None if folder is None else folder / f"{subject}-{digest}"

    def kept(self, condition: Condition, seed: int | None, progress: _Counter) -> list[Measurement] | None:
        """The measurements that an earlier, cut-off audit made; None where it made none."""
        data = self._read(_file_name(condition, seed))
        if data is None or data["condition"] != _described(condition):
            return None
        found = [measurement_from_dict(item) for item in data["measurements"]]
        progress.advance(sum(len(item.scores) for item in found))
        return found

    def keep(self, condition: Condition, seed: int | None, found: list[Measurement]) -> list[Measurement]:
        """Write measurements down, and return them."""
        what = {"condition": _described(condition), "measurements": [measurement_to_dict(item) for item in found]}
        self._write(_file_name(condition, seed), what)
        return found

    def kept_answers(self, condition: Condition) -> dict[tuple[str, str], float] | None:
        """Scores of generated answers that an earlier audit made; None where it made none."""
        data = self._read(f"answers-{condition.info.name}")
        if data is None or data["condition"] != _described(condition):
            return None
        return {(name, key): value for name, key, value in data["answers"]}

    def keep_answers(self, condition: Condition, scores: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
        """Write scores of generated answers down, and return them."""
        rows = [[name, key, value] for (name, key), value in scores.items()]
        self._write(f"answers-{condition.info.name}", {"condition": _described(condition), "answers": rows})
        return scores

    def _read(self, name: str) -> Any:
        if self.folder is None or not (self.folder / f"{name}.json").is_file():
            return None
        try:
            return read_json(self.folder / f"{name}.json")
        except IntegrityError:
            return None  # cut off in a way that atomic writing cannot cause: measured again

    def _write(self, name: str, data: Any) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / f"{name}.json", data)


def _file_name(condition: Condition, seed: int | None) -> str:
    name = condition.info.name if seed is None else f"{condition.info.name}-seed{seed}"
    return name.replace("/", "_")


def _described(condition: Condition) -> dict[str, Any]:
    """Everything of a condition that decides its scores."""
    attack = None if condition.attack is None else asdict(condition.attack)
    how = {name: repr(getattr(condition, name)) for name in ("backend", "prompts", "decoding")}
    return {**asdict(condition.info), "displacement": str(condition.displacement), "attack": attack, **how}
