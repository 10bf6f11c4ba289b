"""The audit: saved models, loaded as saved, measured at every condition. Resumable, one measurement at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from remanent.auditing.condition import Condition
from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    RETRAINED,
    Evidence,
    Measurement,
)
from remanent.auditing.judgement import Criteria
from remanent.auditing.measure import AuditSet, Measurer, with_rouge
from remanent.auditing.measures import measures
from remanent.auditing.plan import AuditData, AuditPlan, Loader, askable, fitting, near_by_the_original, without
from remanent.auditing.relearned_area import relearned_areas
from remanent.auditing.relearning import ATTACKED
from remanent.auditing.store import Store
from remanent.auditing.text_score import TextScore
from remanent.auditing.text_scores import drawn_answers, text_scores
from remanent.core.displacement import Rounding
from remanent.core.quantization import movement
from remanent.core.selection import LINEARS
from remanent.core.tensors import TensorFolder
from remanent.core.weights import Weights
from remanent.data.record import Record
from remanent.errors import InputError, NotFiniteError, UnsupportedError
from remanent.models.source import Source

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
    plan = askable(plan, named, ORIGINAL in subjects)
    if ORIGINAL in subjects:
        plan = near_by_the_original(plan, subjects[ORIGINAL])
    measurements: list[Measurement] = []
    texts: dict[tuple[str, str, str], list[TextScore]] = {}
    digests: dict[str, Mapping[str, str]] = {}
    moved: dict[str, Mapping[str, float]] = {}
    worst, audited_path = "", None
    for subject in (AUDITED, ORIGINAL, RETRAINED):
        if subject not in subjects:
            continue
        loaded = subjects[subject]()
        digests[subject] = _files(loaded.source)
        how = [plan.batch_size, str(plan.autocast), plan.generate, plan.max_length, plan.truth_ratio]
        how += [str(loaded.model.device)]
        store = Store(folder, subject, digests[subject], named, how, hashed)
        if subject == AUDITED:
            plan = fitting(plan, loaded.model)
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
            try:
                if condition.answers_only or condition.look is not None:
                    try:
                        looked = store.kept_texts(condition) or store.keep_texts(
                            condition, _looked(measurer, condition, plan.generate)
                        )
                    except NotFiniteError:
                        plan = replace(plan, notes=(*plan.notes, _unsaid(subject, condition)))
                        looked = {}
                    texts |= {(subject, condition.info.name, name): scores for name, scores in looked.items()}
                if condition.texts_only:
                    continue
                for seed in condition.seeds:
                    found += store.kept(condition, seed, progress.advance) or store.keep(
                        condition, seed, measurer.measure(condition, seed)
                    )
            except UnsupportedError as error:
                if condition.backend is None:
                    raise
                measurements = [item for item in measurements if item.condition != condition.info.name]
                plan = without(plan, condition, str(error))
        if subject == AUDITED:
            worst, audited_path = _worst(plan.conditions, found), loaded.source.path
        if subject == ORIGINAL:
            moved = _movement(plan.conditions, loaded.model, audited_path)
        found, unsaid = _with_answers(found, measurer, plan, sorted({"full", worst} - {""}), store)
        plan = replace(plan, notes=(*plan.notes, *unsaid))
        measurements += found
        if FORGET in named:
            texts |= _texts(measurer, plan, {"full", worst}, store)
    settings = {
        "compute_dtype": str(plan.autocast or "weights"),
        "contents": {name: contents(records, hashed) for name, records in named.items()},
        **plan.settings,
    }
    infos = tuple(condition.info for condition in plan.conditions)
    left = {info.name for info in infos}
    criteria = Criteria.from_settings(settings)
    made = measures({key: scores for key, scores in texts.items() if key[1] in left}, criteria)
    made += relearned_areas(plan.conditions, measurements, criteria)
    return Evidence(infos, tuple(measurements), settings, digests, plan.notes, moved, made)


def contents(records: Sequence[Record], hashed: Callable[[str], str]) -> str:
    """A keyed hash of a set's records, all that they say, in any order: their names alone may be numbers of lines."""
    return hashed("\n".join(sorted(json.dumps(asdict(record), sort_keys=True) for record in records)))


def _files(source: Source) -> dict[str, str]:
    """SHA-256 of everything that a model was loaded from, an adapter's base too."""
    base = {} if source.base is None else source.base.files()
    return {**source.files(), **{f"base/{name}": digest for name, digest in base.items()}}


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
        decides = item.records == (FORGET if forgot else RETAIN) and math.isfinite(item.mean_nll)
        if kinds[item.condition] == "precision" and decides:
            means[item.condition] = item.mean_nll if forgot else -item.mean_nll
    return min(means, key=lambda name: means[name]) if means else ""


def _with_answers(
    found: list[Measurement], measurer: Measurer, plan: AuditPlan, names: Sequence[str], store: Store
) -> tuple[list[Measurement], list[str]]:
    """The measurements with generated answers' scores, and notes on conditions where nothing could be generated."""
    unsaid: list[str] = []
    if not plan.generate or not hasattr(measurer.model, "generate"):
        return found, unsaid
    for condition in plan.conditions:
        if condition.info.name in names:
            try:
                rouge = store.kept_answers(condition) or store.keep_answers(
                    condition, measurer.generate(condition, (FORGET, PARAPHRASED, RETAIN, CONTROL), plan.generate)
                )
            except NotFiniteError:
                unsaid.append(_unsaid(measurer.subject, condition))
                continue
            found = [with_rouge(item, rouge) if item.condition == condition.info.name else item for item in found]
    return found, unsaid


def _unsaid(subject: str, condition: Condition) -> str:
    return (
        f"At {condition.info.name} the {subject} model's logits are not finite: nothing that it would write there was "
        "measured."
    )


def _looked(measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
    """What is measured in place of the records' scores, or beside them."""
    return condition.look(measurer, condition, most) if condition.look else drawn_answers(measurer, condition, most)


def _texts(
    measurer: Measurer, plan: AuditPlan, names: set[str], store: Store
) -> dict[tuple[str, str, str], list[TextScore]]:
    """What is measured on the text of each record, at full precision and at the worst."""
    found: dict[tuple[str, str, str], list[TextScore]] = {}
    for condition in plan.conditions:
        if condition.info.name in names:
            scored = store.kept_texts(condition) or store.keep_texts(
                condition, text_scores(measurer, condition, plan.truth_ratio)
            )
            found |= {(measurer.subject, condition.info.name, name): scores for name, scores in scored.items()}
    return found


def _movement(
    conditions: Sequence[Condition], original: nn.Module, audited: Path | None
) -> dict[str, Mapping[str, float]]:
    """How far the audited weights lie from the original's in steps of each rounding, weighted by size: no data used."""
    if audited is None or not TensorFolder.is_one(audited):
        return {}
    saved = TensorFolder(audited)
    weights = Weights.of(original)
    linears = LINEARS.of(weights)
    result: dict[str, Mapping[str, float]] = {}
    for condition in conditions:
        point = condition.displacement
        if condition.attack is not None or not isinstance(point, Rounding):
            continue
        if point.quantization.granularity == "element" or point.view == "adapter":
            continue
        sums: dict[str, float] = {}
        count = 0
        for name, before in linears.items():
            after = saved.get(name)
            if after is None or after.shape != before.shape:
                return {}
            count += before.numel()
            pair = before.detach().float(), after.float()
            if weights.transposed(name):
                pair = pair[0].T, pair[1].T
            moved = movement(*pair, point.quantization)
            for key, value in moved.items():
                sums[key] = sums.get(key, 0.0) + value * before.numel()
        result[condition.info.name] = {key: value / count for key, value in sums.items()}
    return result


def _work(plan: AuditPlan, named: Mapping[str, Sequence[Record]]) -> int:
    """Records to score on one subject, for the progress bar."""
    everything = sum(map(len, named.values()))
    attacked = sum(len(named.get(name, ())) for name in ATTACKED)
    generated = sum(min(plan.generate, len(named.get(name, ()))) for name in (FORGET, PARAPHRASED, RETAIN, CONTROL))
    scored = sum(
        generated
        if condition.answers_only
        else condition.look.passes(named)
        if condition.look is not None and condition.look.alone
        else everything
        if condition.attack is None
        else attacked * len(condition.seeds)
        for condition in plan.conditions
    )
    texts = sum(len(named.get(name, ())) for name in (FORGET, CONTROL)) if FORGET in named else 0
    return scored + 2 * (generated + texts)


class _Counter:
    """Counts scored records for the progress bar."""

    def __init__(self, subject: str, on_progress: OnProgress, total: int) -> None:
        self.subject, self.on_progress, self.total, self.done = subject, on_progress, total, 0

    def advance(self, records: int) -> None:
        self.done += records
        self.on_progress(self.subject, min(self.done, self.total), self.total)
