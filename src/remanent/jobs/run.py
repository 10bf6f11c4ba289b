"""Run: unlearn, then audit what came of it, from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from remanent.auditing.condition import parse_conditions
from remanent.auditing.judgement import Judgement
from remanent.auditing.requirement import check_conditions
from remanent.core.run_folder import RunFolder
from remanent.jobs.audit import check_audit_after, check_there, run_audit
from remanent.jobs.config import AuditSettings, JobSettings, UnlearnSettings, load_yaml, parse
from remanent.jobs.progress import Interface
from remanent.jobs.unlearn import unlearn


class _JobFile(BaseModel):
    """The file as it is written: its audit may leave out what follows from the rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    unlearn: UnlearnSettings
    audit: dict[str, Any] | None = Field(default_factory=dict)


def kind_of(path: Path) -> str:
    """What a file is for: "sweep" or "compare" where it has a part of that name, else "run"."""
    data = load_yaml(path)
    return next((kind for kind in ("sweep", "compare") if isinstance(data, dict) and kind in data), "run")


def read_job(path: Path, out: Path) -> JobSettings:
    """The settings of a file for `remanent run`.

    Args:
        path: the YAML file, or a run's own config.yaml. Where its audit does not name model, reference or data, they
            are the model that the run saves, the model that it starts from, and the run's own records; `audit: null`
            means that there is none.
        out: the run folder.

    Raises InputError that names the field, the value and what would be right.
    """
    data = load_yaml(path)
    if isinstance(data, dict) and "unlearn" not in data and "method" in data:
        data = {"unlearn": data}  # what a run wrote down of itself
    file: _JobFile = parse(_JobFile, data, str(path))
    if file.audit is None:
        return JobSettings(unlearn=file.unlearn)
    start = file.unlearn
    asked = start.data.model_dump() | ({} if start.requests is None else {"forget": start.requests})
    implied = {"model": str(RunFolder(out).model), "reference": start.model, "data": asked}
    named = {name: value for name, value in file.audit.items() if value is not None or name not in implied}
    audit = parse(AuditSettings, {**implied, **named}, f"{path}: audit")
    # A typing error there would show only when the unlearning is over.
    check_conditions(audit.require, (condition.info.name for condition in parse_conditions(audit.at)))
    return JobSettings(unlearn=start, audit=audit)


def run_job(settings: JobSettings, out: Path, *, interface: Interface | None = None) -> Judgement | None:
    """Unlearn and audit, or go on where that was cut off; the judgement is None where no audit was asked for.

    Raises InputError before the unlearning where the audit could not be made.
    """
    if settings.audit is not None:
        check_audit_after(settings.unlearn, settings.audit)
        if Path(settings.audit.model).resolve() != RunFolder(out).model.resolve():
            check_there(settings.audit, "model")
    unlearn(settings.unlearn, out, interface=interface)
    if settings.audit is None:
        return None
    return run_audit(settings.audit, out, interface=interface)[1]
