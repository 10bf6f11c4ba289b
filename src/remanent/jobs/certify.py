"""Certify: sign what the audit of a run's model found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from remanent.auditing.chain import PARENTS, adopt, name_parent, put_beside
from remanent.auditing.evidence import AUDITED, Evidence
from remanent.auditing.hashes import hash_folder
from remanent.auditing.judge import judge
from remanent.auditing.judgement import Judgement
from remanent.auditing.signing import load_private_key, load_public_key, write_certificate
from remanent.auditing.statement import build_statement
from remanent.auditing.verify import Opened, open_certificate
from remanent.core.files import read_json
from remanent.core.run_folder import RunFolder
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.jobs.folders import AUDITS
from remanent.jobs.lineage import adapter_files, base_files, quantized_files

_HASHED_BEFORE = "The files of this model were hashed when it was audited; they were not at hand when this was signed."


def certify(
    out: Path,
    key: Path,
    *,
    model: Path | None = None,
    passphrase: str | None = None,
    parent: Path | None = None,
    parent_key: Path | None = None,
    adapters: Sequence[Path] = (),
    quantized: Sequence[Path] = (),
    chain: bool = False,
) -> Path:
    """Sign the audit of a run and write certificate.json.

    Args:
        out: the run folder, with audit.json and judgement.json.
        key: the private key.
        model: the audited model's folder; the run's own by default.
        passphrase: of the private key.
        parent: a certificate about a model that this one comes from, or an earlier one about this model; it and its
            own parents are copied beside the new one.
        parent_key: the public key that signed the parent; the signer's own by default.
        adapters: folders of adapters that were merged into the model.
        quantized: quantized files of the model that lie elsewhere than in the run's folder.
        chain: of a run with requests, sign the audits between them too, each naming the one before as its parent.

    Returns:
        The certificate's path. A verdict of FAILED is signed like any other: it is what was found.
    """
    run = RunFolder(out)
    evidence, judgement = _found(run)
    if chain and (parent is not None or model is not None):
        raise InputError("chain", chain, "neither a parent nor another model: the chain is that of the run's requests")
    signer = load_private_key(key, passphrase)
    folder = model or run.model
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedError(
            f"{folder} is an adapter, whose base could change unseen; merge it, audit and certify that"
        )
    before = _before(run, signer) if chain else None
    own = folder.resolve() == run.model.resolve()
    base, note = base_files(run) if own else ({}, "")
    statement = build_statement(
        evidence,
        replace(judgement, notes=(*judgement.notes, note)) if note else judgement,
        hash_folder(folder),
        method=_method(run) if own else {},
        lineage={**({"base": base} if base else {}), **adapter_files(adapters), **_previous(before)},
        quantized=quantized_files(run, folder, quantized, evidence),
    )
    if parent is not None:
        theirs = signer.public_key() if parent_key is None else load_public_key(parent_key)
        adopt(parent, _opened(parent, theirs, parent_key), statement, run.certificate)
    if before is not None:
        name_parent(before, statement, run.path / AUDITS)
    write_certificate(run.certificate, statement, signer)
    links = (run.path / AUDITS).glob("*/certificate.json")
    run.record(run.certificate, *sorted((run.path / PARENTS).glob("*.json")), *sorted(links))
    return run.certificate


def _found(run: RunFolder) -> tuple[Evidence, Judgement]:
    """A folder's evidence, and what follows from it: the verdicts and thresholds that were written down beside it."""
    for file in (run.audit, run.judgement):
        if not file.is_file():
            raise InputError("run", str(run.path), f"a run folder with {file.name}; `remanent audit` writes it")
    try:
        evidence = Evidence.from_dict(read_json(run.audit))
        judgement = Judgement.from_dict(read_json(run.judgement))
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{run.path}: audit.json or judgement.json is not what `remanent audit` writes: {error}"
        ) from None
    judged = judge(evidence)
    if (_verdicts(judged), judged.criteria) != (_verdicts(judgement), judgement.criteria):
        raise IntegrityError(f"{run.judgement} does not follow from {run.audit.name}; run `remanent audit` again")
    return evidence, judged  # figures and notes as they follow, whatever stands in the file


def _before(run: RunFolder, signer: Ed25519PrivateKey) -> Opened | None:
    """Sign the audits between requests, but for the last, each naming the one before; the newest of them.

    One that was signed before, and names the right parent, stays as it is. All lie beside the run's own certificate.
    """
    folders = sorted(file.parent for file in (run.path / AUDITS).glob("*/judgement.json"))
    if not folders:
        expected = (
            "a run with audits between its requests; `remanent unlearn --requests ... --audit-every N` makes them"
        )
        raise InputError("chain", str(run.path), expected)
    before: Opened | None = None
    for folder in folders[:-1]:
        link = RunFolder(folder)
        opened = _opened(link.certificate, signer.public_key(), None) if link.certificate.is_file() else None
        named = None if opened is None else opened.statement["predicate"]["parent"]
        if opened is None or (named or {}).get("sha256") != (before.sha256 if before else None):
            evidence, judgement = _found(link)
            files = {name: digest for name, digest in evidence.subjects[AUDITED].items() if not name.startswith(".")}
            statement = build_statement(
                evidence,
                replace(judgement, notes=(*judgement.notes, _HASHED_BEFORE)),
                files,
                method={**_method(run), "requests_obeyed": int(folder.name)},
                lineage=_previous(before),
            )
            if before is not None:
                name_parent(before, statement, folder)
            write_certificate(link.certificate, statement, signer)
            opened = _opened(link.certificate, signer.public_key(), None)
        put_beside(run.certificate, opened.sha256, link.certificate)
        before = opened
    return before


def _previous(before: Opened | None) -> dict[str, dict[str, str]]:
    """The files of the model that the certificate before is about, as one that this model comes from."""
    if before is None:
        return {}
    return {"previous": {item["name"]: item["digest"]["sha256"] for item in before.statement["subject"]}}


def _opened(parent: Path, key: Ed25519PublicKey, given: Path | None) -> Opened:
    try:
        opened = open_certificate(parent, key)
    except IntegrityError as error:
        hint = "" if given else "; one that another key signed needs --parent-key"
        raise InputError("parent", str(parent), f"a certificate that the key has signed ({error}){hint}") from None
    if opened.problems:
        raise IntegrityError(f"{parent}: {opened.problems[0]}")
    return opened


def _verdicts(judgement: Judgement) -> list[tuple[str, str, str]]:
    """What was decided, whatever the words of the version that decided it."""
    return [("", "", judgement.verdict), *((line.name, line.condition, line.verdict) for line in judgement.lines)]


def _method(run: RunFolder) -> dict[str, Any]:
    """How the model was made, as the run's own settings say it; no path and no record's text."""
    if not run.config.is_file():
        return {}
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    left_out = {"model", "base", "data", "requests", "retrained", "records", "forget"}
    return {name: value for name, value in settings.items() if name not in left_out and value is not None}
