"""Audit: saved models at every condition, judged, and written down where the run lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from remanent.auditing.audit import AuditData, AuditPlan, Loader, audit
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, ORIGINAL, RETRAINED, Evidence
from remanent.auditing.judge import judge
from remanent.auditing.judgement import Criteria, Judgement
from remanent.core.files import write_json
from remanent.core.run_folder import RunFolder, check_writable
from remanent.data.record import Record
from remanent.jobs.config import AuditSettings, write_yaml
from remanent.jobs.data import JobData, best_device, hasher, load_data, overlap
from remanent.jobs.progress import Interface
from remanent.models.load import load
from remanent.models.source import find

_THRESHOLDS = ("epsilon", "epsilon_over", "upsilon", "alpha", "perplexity_factor")


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
    data = load_data(settings.data, records)
    conditions = parse_conditions(settings.at, tuple(range(settings.attack_seeds)))
    Criteria.from_settings(settings.model_dump())
    names = {AUDITED: settings.model, ORIGINAL: settings.reference, RETRAINED: settings.retrained}
    given = {subject: name for subject, name in names.items() if name is not None}
    for name in given.values():
        find(name)  # a model that is not there is said before any work
    asked = AuditData(data.forget, data.retain.get("audit", []), data.control.get("audit", []), data.text)
    notes = _notes(settings, data)
    if len({record.group for record in data.forget}) < 2:
        # A request about one person leaves nobody to ask after another was relearned; without a forget set nobody is.
        conditions = [item for item in conditions if item.attack is None or not item.attack.overlap]
        if data.forget:
            notes += ("Relearning on a part of the forget set was not tried: all of it is about one group.",)
    check_writable(out)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    shared, sentences, details = overlap(data)
    for sentence in details:
        interface.warn(sentence)
    autocast = torch.bfloat16 if settings.precision == "bf16" else None
    plan = AuditPlan(
        conditions,
        settings={
            **{name: getattr(settings, name) for name in _THRESHOLDS},
            "score": "mean answer NLL per record",
            "overlap": shared,
            "split_seed": settings.data.split_seed,
            "attack_seeds": settings.attack_seeds,
        },
        batch_size=settings.batch_size,
        autocast=autocast,
        generate=settings.generate,
        max_length=settings.data.max_length,
        notes=tuple(sentences) + notes,
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
    run = RunFolder(out)
    write_json(run.audit, evidence.to_dict())
    write_json(run.judgement, judgement.to_dict())
    write_yaml(out / "audit.yaml", settings)
    return evidence, judgement


def _loader(name: str) -> Loader:
    return lambda: load(name, device=best_device())


def _notes(settings: AuditSettings, data: JobData) -> tuple[str, ...]:
    notes = []
    if settings.reference is None:
        notes.append("The model before unlearning was not given: what was kept, and the attacks, lack their reference.")
    if settings.retrained is None and data.forget:
        notes.append("No retrained model was given: the reference is the original model's score on unseen records.")
    return tuple(notes)
