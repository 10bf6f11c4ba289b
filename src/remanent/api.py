"""The few functions that a user meets first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remanent.auditing.judgement import Judgement
    from remanent.data.record import Record
    from remanent.jobs.verify import Verified
    from remanent.report.sweep_view import SweepView

Records = str | Path | Sequence["Record"] | None


def unlearn(
    model: str | Path,
    *,
    forget: Records = None,
    requests: str | Path | Mapping[str, Sequence[Record]] | None = None,
    retain: Records = None,
    control: Records = None,
    out: str | Path,
    method: str = "flat-durable",
    progress: bool = True,
    **settings: Any,
) -> Path:
    """Make a model forget records; returns the run folder, whose folder "model" holds the result.

    Args:
        model: a folder, a .gguf file or a hub name.
        forget: records to be forgotten: a JSON Lines file, a name, or a list of `Record`.
        requests: in place of `forget`, deletion requests that are obeyed one after another: a folder of JSON Lines
            files, one file, a name, or name -> records, in order.
        retain: records to be kept.
        control: records of the same kind that the model never saw: says when forgetting is enough.
        out: the run folder; one that was cut off goes on.
        method: `remanent methods` lists them.
        progress: show progress.
        settings: any other option of `remanent unlearn`: a field of `remanent.jobs.config.UnlearnSettings`, or of its
            `DataSettings`, whose `text` may be a list of `Record` too.
    """
    from remanent.jobs.config import UnlearnSettings, parse
    from remanent.jobs.unlearn import unlearn as run

    fields, given = _fields({"forget": forget, "retain": retain, "control": control}, settings)
    named = {"model": str(model), "method": method, **fields}
    if isinstance(requests, Mapping):
        from remanent.data.requests import Request
        from remanent.jobs.requests import obey

        # Not how many, since more may come later.
        chosen = parse(UnlearnSettings, {**named, "requests": "given in Python"}, "unlearn")
        asked = [Request(name, tuple(records)) for name, records in requests.items()]
        return obey(chosen, Path(out), interface=_interface(progress), records=given, requests=asked).path
    named |= {} if requests is None else {"requests": str(requests)}
    chosen = parse(UnlearnSettings, named, "unlearn")
    return run(chosen, Path(out), interface=_interface(progress), records=given).path


def audit(
    model: str | Path,
    *,
    reference: str | Path | None = None,
    forget: Records = None,
    retain: Records = None,
    control: Records = None,
    out: str | Path | None = None,
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
        out: the run folder, or a new folder; the run's where the model is one's, else runs/audit-<name>.
        progress: show progress.
        settings: any other option of `remanent audit`, for example `at="int8,int4-row"`, or limits on measures,
            `require=["model-utility@tofu>=0.5"]`: a field of `remanent.jobs.config.AuditSettings`, or of its
            `DataSettings`, whose `text` may be a list of `Record` too.
    """
    from remanent.jobs.audit import run_audit
    from remanent.jobs.config import AuditSettings, parse
    from remanent.jobs.folders import audit_folder

    fields, given = _fields({"forget": forget, "retain": retain, "control": control}, settings)
    models = {"model": str(model), "reference": None if reference is None else str(reference)}
    chosen = parse(AuditSettings, {**models, **fields}, "audit")
    folder = audit_folder(chosen.model) if out is None else Path(out)
    return run_audit(chosen, folder, interface=_interface(progress), records=given)[1]


def sharpness(
    model: str | Path,
    data: str | Path | Mapping[str, Sequence[Record]],
    *,
    other: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Measure how flat the loss of some records is around a model; returns what is in `out`/sharpness.json.

    Not a verb of the package itself, whose room `remanent.sharpness` holds the measures for modules of your own.

    Args:
        model: the model to look at.
        data: sets of records: JSON Lines files or names, separated by commas, or name -> list of `Record`.
        other: the model before fine-tuning or unlearning.
        out: a folder; runs/sharpness-<name> by default.
        progress: show progress.
        settings: any other option of `remanent sharpness`: a field of `remanent.jobs.config.SharpnessSettings`.
    """
    from remanent.jobs.config import SharpnessSettings, parse
    from remanent.jobs.folders import sharpness_folder
    from remanent.jobs.sharpness import measure_sharpness

    given = {name: list(records) for name, records in data.items()} if isinstance(data, Mapping) else None
    named = ",".join(given) if given is not None else str(data)
    models = {"model": str(model), "other": None if other is None else str(other)}
    chosen = parse(SharpnessSettings, {**models, "data": named, **settings}, "sharpness")
    folder = sharpness_folder(chosen.model) if out is None else Path(out)
    return measure_sharpness(chosen, folder, interface=_interface(progress), records=given)


def compare(
    model: str | Path,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]],
    *,
    budget: int,
    forget: str | Path,
    retain: str | Path,
    control: str | Path,
    out: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    audit: Mapping[str, Any] | None = None,
    progress: bool = True,
    **settings: Any,
) -> SweepView:
    """Compare methods over seeds at one budget of passes; the page is `out`/compare.html, and the best model stays.

    Args:
        model: the model that knows too much: a folder, a .gguf file or a hub name.
        methods: names, or name -> what is the method's own: learning_rate, hyperparameters and so on.
        budget: records passed forward and backward in a trial at most, at every point together.
        forget: records to be forgotten: a JSON Lines file or a name.
        retain: records to be kept.
        control: records that no model has seen.
        out: the comparison's folder; one that was cut off goes on.
        seeds: every method is run with each of them.
        audit: settings of the audit, fields of `remanent.jobs.config.AuditSettings`.
        progress: show progress.
        settings: what all trials share: a field of `remanent.jobs.config.UnlearnSettings`, or of its `DataSettings`; or
            processes, ray and keep_models, as of `remanent compare`. Processes import the script that calls this: call
            it under `if __name__ == "__main__":`.
    """
    from remanent.jobs.compare import compare as run
    from remanent.jobs.compare_config import CompareFile, CompareSettings
    from remanent.jobs.config import parse

    own = {name: settings.pop(name) for name in tuple(settings) if name in CompareSettings.model_fields}
    asked = {"methods": methods, "budget": budget, "seeds": list(seeds), **own}
    fields, _ = _fields({"forget": forget, "retain": retain, "control": control}, settings)
    whole = {"compare": asked, "unlearn": {"model": str(model), **fields}, "audit": dict(audit or {})}
    return run(parse(CompareFile, whole, "compare"), Path(out), interface=_interface(progress))


def certify(
    run: str | Path,
    key: str | Path,
    *,
    model: str | Path | None = None,
    parent: str | Path | None = None,
    parent_key: str | Path | None = None,
    adapters: Sequence[str | Path] = (),
    quantized: Sequence[str | Path] = (),
    chain: bool = False,
    passphrase: str | None = None,
) -> Path:
    """Sign what the audit of a run found; returns the certificate's path.

    Args:
        run: the run folder, with its audit.
        key: the private key.
        model: the audited model's folder; the run's own by default.
        parent: the certificate of a model that this one comes from, or an earlier one of it.
        parent_key: the public key that signed the parent; the signer's own by default.
        adapters: folders of adapters that were merged into the model.
        quantized: quantized files of the model that lie elsewhere than in the run's folder.
        chain: of a run with requests, sign the audits between them too, each naming the one before.
        passphrase: of the private key.
    """
    from remanent.jobs.certify import certify as sign

    return sign(
        Path(run),
        Path(key),
        model=_path(model),
        passphrase=passphrase,
        parent=_path(parent),
        parent_key=_path(parent_key),
        adapters=[Path(item) for item in adapters],
        quantized=[Path(item) for item in quantized],
        chain=chain,
    )


def verify(
    certificate: str | Path,
    *,
    model: str | Path,
    key: str | Path,
    chain: bool = False,
    parent_keys: Sequence[str | Path] = (),
    rerun: int | None = None,
    audit_file: str | Path | None = None,
    tolerance: float | None = None,
    seed: int | None = None,
    records: Mapping[str, Sequence[Record]] | None = None,
    progress: bool = True,
) -> Verified:
    """Check a certificate against a model folder and a public key. A signature proves origin, not truth.

    Args:
        certificate: the file.
        model: the folder of the model that it should be about.
        key: the public key of whom you trust, had from them.
        chain: verify the certificates above it too.
        parent_keys: further public keys that those may be signed with.
        rerun: how many random rows of the evidence are measured again; None measures none. Needs the records, and the
            secret that keys their hashes.
        audit_file: for a rerun: the audit's settings; audit.yaml beside the certificate by default.
        tolerance: for a rerun: nats; 5 times that after relearning. 0.02 by default.
        seed: for a rerun: draws the rows; another each time by default.
        records: for a rerun: role -> records, where the audit was given lists.
        progress: show a rerun's progress.
    """
    from remanent.jobs.rerun import TOLERANCE
    from remanent.jobs.verify import verify as check

    return check(
        Path(certificate),
        Path(model),
        Path(key),
        chain=chain,
        parent_keys=[Path(item) for item in parent_keys],
        rerun=rerun,
        audit_file=_path(audit_file),
        tolerance=TOLERANCE if tolerance is None else tolerance,
        seed=seed,
        interface=_interface(progress),
        records=None if records is None else {role: list(given) for role, given in records.items()},
    )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _fields(
    roles: Mapping[str, Records], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, list[Record]]]:
    """The settings' fields, those of the records in their place under `data`; and the lists of records."""
    from remanent.jobs.config import DataSettings

    fields = {name: value for name, value in settings.items() if name not in DataSettings.model_fields}
    told = {name: value for name, value in settings.items() if name in DataSettings.model_fields}
    named, given = _records({**roles, "text": told.pop("text", None)})
    return {**fields, "data": {**named, **told, **fields.pop("data", {})}}, given


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
