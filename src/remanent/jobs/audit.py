"""Audit: saved models at every condition, judged, and written down where the run lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from remanent.auditing.audit import audit
from remanent.auditing.condition import Condition, parse_conditions
from remanent.auditing.evidence import AUDITED, ORIGINAL, RETRAINED, Evidence
from remanent.auditing.judge import judge
from remanent.auditing.judgement import Criteria, Judgement
from remanent.auditing.plan import AuditData, AuditPlan, Loader, askable
from remanent.auditing.relearned_area import check_asked
from remanent.auditing.requirement import check_conditions
from remanent.core.files import read_json, write_json
from remanent.core.run_folder import RunFolder, alone
from remanent.data.record import Record
from remanent.errors import InputError, IntegrityError
from remanent.jobs.config import AuditSettings, UnlearnSettings, write_yaml
from remanent.jobs.data import JobData, best_device, hasher, input_hashes, load_data, overlap
from remanent.jobs.progress import Interface
from remanent.jobs.reference_answers import reference_answers
from remanent.models.load import load
from remanent.models.source import find

_THRESHOLDS = ("epsilon", "epsilon_over", "upsilon", "alpha", "membership_margin", "perplexity_factor")


def run_audit(
    settings: AuditSettings,
    out: Path,
    *,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
    cache: Path | None = None,
) -> tuple[Evidence, Judgement]:
    """Audit a model, or go on with an audit that was cut off, and write audit.json and judgement.json.

    Args:
        settings: the job.
        out: the run folder, or a new folder.
        interface: where progress goes; None is silent.
        records: role -> records in place of the settings' names.
        cache: where finished measurements are kept; a folder that several audits share measures their common
            reference once. The run folder's "audit" by default.
    """
    interface = interface or Interface()
    data = load_data(settings.data, records, unanswered=True)
    others = _against_the_run(RunFolder(out), settings, data)
    conditions, _ = _asked(settings, data)
    names = {AUDITED: settings.model, ORIGINAL: settings.reference, RETRAINED: settings.retrained}
    given = {subject: name for subject, name in names.items() if name is not None}
    check_there(settings, "model", "reference", "retrained")
    notes = _notes(settings, data)
    with alone(out):
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        autocast = torch.bfloat16 if settings.precision == "bf16" else None
        data, whose = reference_answers(
            data, settings.reference, batch_size=settings.batch_size, autocast=autocast, interface=interface
        )
        asked = _audited(data)
        shared, sentences, details = overlap(data)
        for sentence in details:
            interface.warn(sentence)
        written = settings.model_dump()
        plan = AuditPlan(
            conditions,
            settings={
                **{name: getattr(settings, name) for name in _THRESHOLDS},
                "score": "mean answer NLL per record",
                "overlap": shared,
                "split_seed": settings.data.split_seed,
                "attack_seeds": settings.attack_seeds,
                # Where it says something, so that an audit made before is the same again.
                **{name: written[name] for name in settings.came_later if name in written},
                **({"require": list(settings.require)} if settings.require else {}),
                **({} if others is None else {"other_records_than_the_run": others}),
            },
            batch_size=settings.batch_size,
            autocast=autocast,
            generate=settings.generate,
            max_length=settings.data.max_length,
            truth_ratio=settings.truth_ratio,
            notes=tuple(sentences) + notes + whose,
        )
        with interface.bar("audit") as advance:
            evidence = audit(
                {subject: _loader(name) for subject, name in given.items()},
                asked,
                plan,
                hasher(),
                folder=cache or out / "audit",
                on_progress=lambda what, done, total: advance(done, total, what),
            )
        judgement = judge(evidence)
        _write(RunFolder(out), settings, evidence, judgement, interface)
        return evidence, judgement


def check_audit_after(unlearning: UnlearnSettings, settings: AuditSettings) -> None:
    """`check_audit` of an audit that follows an unlearning, before any of the work.

    Raises InputError too where the audit splits the records by another seed.
    """
    find(unlearning.model)  # which the audit calls its reference
    _check_split(unlearning.data.split_seed, settings, "the unlearning")
    check_audit(settings, load_data(settings.data, unanswered=True))


def check_audit(settings: AuditSettings, data: JobData) -> None:
    """See, while the model to audit need not be there yet, that an audit could be made of these records.

    Raises:
        InputError: for a threshold, a limit or a condition that is wrong, or that these records do not allow, and for
            a model to compare with that is not there.
        MissingExtraError: for one that needs what is not installed.
    """
    check_there(settings, "reference", "retrained")
    conditions, asked = _asked(settings, data)
    askable(AuditPlan(conditions, generate=settings.generate), asked.named(), settings.reference is not None)


def check_there(settings: AuditSettings, *fields: str) -> None:
    """Raise InputError, which names the field, where a model of an audit is not there."""
    for field in fields:
        name = getattr(settings, field)
        if name is None:
            continue
        try:
            find(name)
        except InputError as error:
            raise InputError(field, error.value, error.expected) from None


def settings_between(settings: UnlearnSettings, model: str) -> AuditSettings:
    """Those of an audit between deletion requests; the records that were asked for so far are given beside them."""
    return AuditSettings.model_validate(
        {
            "model": model,
            "reference": settings.model,
            "retrained": settings.retrained,
            "data": {**settings.data.model_dump(), "forget": None},
            "at": settings.audit_at,
            "epsilon": settings.audit_epsilon,
            "upsilon": settings.audit_upsilon,
            "require": settings.audit_require,
            "attack_learning_rate": settings.audit_attack_learning_rate,
            "generate": settings.curve_generate,
            "precision": settings.precision,
        }
    )


def check_audits_between(settings: UnlearnSettings, data: JobData) -> None:
    """`check_audit` of the audits between deletion requests, whose settings are named as the user gives them."""
    try:
        check_audit(settings_between(settings, settings.model), data)
    except InputError as error:
        name = f"audit_{error.field}" if f"audit_{error.field}" in UnlearnSettings.model_fields else error.field
        raise InputError(name, error.value, error.expected) from None


def conditions_asked(settings: AuditSettings) -> list[Condition]:
    """The conditions that an audit's settings name, with its attacks as they say."""
    return parse_conditions(settings.at, tuple(range(settings.attack_seeds)), settings.attack_learning_rate)


def _asked(settings: AuditSettings, data: JobData) -> tuple[list[Condition], AuditData]:
    conditions = conditions_asked(settings)
    Criteria.from_settings(settings.model_dump())
    check_conditions(settings.require, (condition.info.name for condition in conditions))
    if _of_one_group(data):
        # A request about one person leaves nobody to ask after another was relearned; without a forget set nobody is.
        conditions = [item for item in conditions if item.attack is None or not item.attack.overlap]
    check_asked(settings.require, conditions)
    return conditions, _audited(data)


def _audited(data: JobData) -> AuditData:
    return AuditData(data.forget, data.retain.get("audit", []), data.control.get("audit", []), data.text)


def _of_one_group(data: JobData) -> bool:
    return len({record.group for record in data.forget}) < 2


def _against_the_run(run: RunFolder, settings: AuditSettings, data: JobData) -> list[str] | None:
    """The record sets that are not those of the run in whose folder the audit lies; None where it lies in no run's.

    Raises:
        InputError: where the split seed is another: records that the method trained on would then be asked as if it
            had never seen them.
    """
    if not run.config.is_file() or not run.inputs.is_file():
        return None
    asked = yaml.safe_load(run.config.read_text(encoding="utf-8")).get("data") or {}
    if asked.get("split_seed") is not None:
        _check_split(asked["split_seed"], settings, str(run.config))
    before, now = read_json(run.inputs), input_hashes(data)
    # A set that the run was not given cannot have trained it.
    shared = [role for role in ("forget", "retain", "control") if role in before and role in now]
    return [role for role in shared if before[role] != now[role]]


def _check_split(seed: int, settings: AuditSettings, where: str) -> None:
    if seed != settings.data.split_seed:
        expected = f"{seed}, as in {where}: another seed asks records that the method has trained on"
        raise InputError("split_seed", settings.data.split_seed, expected)


def _write(
    run: RunFolder, settings: AuditSettings, evidence: Evidence, judgement: Judgement, interface: Interface
) -> None:
    """Write what was found. What an earlier, other audit left is put aside first, so that nothing passes for new."""
    found = evidence.to_dict()
    aside: list[Path] = []
    if not run.audit.is_file() or not _is(run.audit, found):
        aside = run.new_audit()
        for file in aside:
            interface.say(f"{file} was of an earlier audit, and was put aside")
    write_json(run.audit, found)
    write_json(run.judgement, judgement.to_dict())
    settings_file = run.path / "audit.yaml"
    write_yaml(settings_file, settings)
    run.record(run.audit, run.judgement, settings_file, *aside, *sorted((run.path / "earlier").glob("*")))


def _is(file: Path, found: Mapping[str, Any]) -> bool:
    try:
        return bool(read_json(file) == json.loads(json.dumps(found)))
    except IntegrityError:
        return False


def _loader(name: str) -> Loader:
    return lambda: load(name, device=best_device())


def _notes(settings: AuditSettings, data: JobData) -> tuple[str, ...]:
    notes = []
    if settings.reference is None:
        notes.append("The model before unlearning was not given: what was kept, and the attacks, lack their reference.")
    if settings.retrained is None and data.forget:
        notes.append("No retrained model was given: the reference is the original model's score on unseen records.")
    if data.forget and _of_one_group(data):
        notes.append("Relearning on a part of the forget set was not tried: all of it is about one group.")
    return tuple(notes)
