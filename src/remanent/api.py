"""The few functions that a user meets first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remanent.auditing.judgement import Judgement
    from remanent.auditing.verify import Verification
    from remanent.data.record import Record

Records = str | Path | Sequence["Record"] | None


def unlearn(
    model: str | Path,
    *,
    forget: Records,
    retain: Records = None,
    control: Records = None,
    out: str | Path,
    method: str = "durable",
    progress: bool = True,
    **settings: Any,
) -> Path:
    """Make a model forget records; returns the run folder, whose folder "model" holds the result.

    Args:
        model: a folder, a .gguf file or a hub name.
        forget: records to be forgotten: a JSON Lines file, a name, or a list of `Record`.
        retain: records to be kept.
        control: records of the same kind that the model never saw: says when forgetting is enough.
        out: the run folder; one that was cut off goes on.
        method: `remanent methods` lists them.
        progress: show progress.
        settings: any other field of `remanent.jobs.config.UnlearnSettings`.
    """
    from remanent.jobs.config import UnlearnSettings, parse
    from remanent.jobs.unlearn import unlearn as run

    named, given = _records({"forget": forget, "retain": retain, "control": control})
    data = {**named, **settings.pop("data", {})}
    chosen = parse(UnlearnSettings, {"model": str(model), "method": method, "data": data, **settings}, "unlearn")
    return run(chosen, Path(out), interface=_interface(progress), records=given).path


def audit(
    model: str | Path,
    *,
    reference: str | Path | None = None,
    forget: Records = None,
    retain: Records = None,
    control: Records = None,
    out: str | Path,
    progress: bool = True,
    **settings: Any,
) -> Judgement:
    """Ask a saved model what it still knows at every condition, and judge it; the figures are in `out`/audit.json.

    Args:
        model: the model to audit, for example the folder "model" of a run.
        reference: the model before unlearning.
        forget: records that were to be forgotten; None asks only whether what should stay has stayed.
        retain: records to be kept; their audit split is asked.
        control: records of the same kind that no model saw; their audit split is asked.
        out: the run folder, or a new folder.
        progress: show progress.
        settings: any other field of `remanent.jobs.config.AuditSettings`, for example `at="int8,int4-row"`.
    """
    from remanent.jobs.audit import run_audit
    from remanent.jobs.config import AuditSettings, parse

    named, given = _records({"forget": forget, "retain": retain, "control": control})
    data = {**named, **settings.pop("data", {})}
    fields = {"model": str(model), "reference": None if reference is None else str(reference), "data": data, **settings}
    chosen = parse(AuditSettings, fields, "audit")
    return run_audit(chosen, Path(out), interface=_interface(progress), records=given)[1]


def certify(run: str | Path, key: str | Path, *, passphrase: str | None = None) -> Path:
    """Sign what the audit of a run found; returns the certificate's path."""
    from remanent.jobs.certify import certify as sign

    return sign(Path(run), Path(key), passphrase=passphrase)


def verify(certificate: str | Path, *, model: str | Path, key: str | Path) -> Verification:
    """Check a certificate against a model folder and a public key. A signature proves origin, not truth."""
    from remanent.auditing.verify import verify as check

    return check(certificate, model, key)


def _records(roles: Mapping[str, Records]) -> tuple[dict[str, str], dict[str, list[Record]]]:
    """Names go into the settings, lists of records past them; a list is named by its length."""
    named: dict[str, str] = {}
    given: dict[str, list[Record]] = {}
    for role, records in roles.items():
        if isinstance(records, str | Path):
            named[role] = str(records)
        elif records is not None:
            given[role] = list(records)
            named[role] = f"{len(given[role])} records given in Python"
    return named, given


def _interface(progress: bool) -> Any:
    from rich.console import Console

    from remanent.jobs.progress import Interface

    return Interface(Console(stderr=True) if progress else None)
