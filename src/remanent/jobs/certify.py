"""Certify: sign what the audit of a run's model found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from remanent.auditing.evidence import Evidence
from remanent.auditing.hashes import hash_folder
from remanent.auditing.judge import judge
from remanent.auditing.judgement import Judgement
from remanent.auditing.signing import load_private_key, write_certificate
from remanent.auditing.statement import build_statement
from remanent.core.files import read_json
from remanent.core.run_folder import RunFolder
from remanent.errors import InputError, IntegrityError, UnsupportedError


def certify(out: Path, key: Path, *, model: Path | None = None, passphrase: str | None = None) -> Path:
    """Sign the audit of a run and write certificate.json.

    Args:
        out: the run folder, with audit.json and judgement.json.
        key: the private key.
        model: the audited model's folder; the run's own by default.
        passphrase: of the private key.

    Returns:
        The certificate's path. A verdict of FAILED is signed like any other: it is what was found.
    """
    run = RunFolder(out)
    for file in (run.audit, run.judgement):
        if not file.is_file():
            raise InputError("run", str(out), f"a run folder with {file.name}; `remanent audit` writes it")
    signer = load_private_key(key, passphrase)
    folder = model or run.model
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedError(
            f"{folder} is an adapter, whose base could change unseen; merge it, audit and certify that"
        )
    try:
        evidence = Evidence.from_dict(read_json(run.audit))
        judgement = Judgement.from_dict(read_json(run.judgement))
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{out}: audit.json or judgement.json is not what `remanent audit` writes: {error}"
        ) from None
    if _verdicts(judge(evidence)) != _verdicts(judgement):
        raise IntegrityError(f"{run.judgement} does not follow from {run.audit.name}; run `remanent audit` again")
    method = _method(run) if folder.resolve() == run.model.resolve() else {}
    statement = build_statement(evidence, judgement, hash_folder(folder), method=method)
    write_certificate(run.certificate, statement, signer)
    run.record(run.certificate)
    return run.certificate


def _verdicts(judgement: Judgement) -> list[tuple[str, str, str]]:
    """What was decided, whatever the words of the version that decided it."""
    return [("", "", judgement.verdict), *((line.name, line.condition, line.verdict) for line in judgement.lines)]


def _method(run: RunFolder) -> dict[str, Any]:
    """How the model was made, as the run's own settings say it; no path and no record's text."""
    if not run.config.is_file():
        return {}
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    left_out = {"model", "base", "data"}
    return {name: value for name, value in settings.items() if name not in left_out and value is not None}
