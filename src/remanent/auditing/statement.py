"""The certificate's content: an in-toto Statement that says what was measured on which files, and nothing of the text.

Format: in-toto Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md). One subject per model file.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from remanent.auditing.evidence import AUDITED, FORGET, PARAPHRASED, RETRAINED, Evidence
from remanent.auditing.hashes import is_harmless
from remanent.auditing.judgement import Judgement
from remanent.auditing.table import comparisons, evidence_table, record_sets
from remanent.errors import InputError, IntegrityError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://remanent.dev/forgetting-audit/v1"
_EXTRAS = ("bitsandbytes", "torchao", "lm_eval")
PACKAGES = ("remanent", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "gguf", *_EXTRAS)
_HASH = re.compile(r"[0-9a-f]{16,64}")


def build_statement(
    evidence: Evidence,
    judgement: Judgement,
    files: Mapping[str, str],
    *,
    method: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Mapping[str, str]] | None = None,
    quantized: Sequence[Mapping[str, Any]] = (),
    created: datetime | None = None,
) -> dict[str, Any]:
    """The statement on a model's files, as plain data.

    Args:
        evidence: what was measured.
        judgement: what came of it.
        files: name -> sha256 of every file in the model folder, as `hash_folder` gives them.
        method: how the model was made: name and hyperparameters, without any record's text.
        lineage: further models that this one comes from, by name ("base", "adapter/lora" ...): their files with sha256.
            The original and the retrained model follow from the evidence.
        quantized: quantized files of this model: "name", "sha256" and "audited_at", the condition or None.
        created: when; the present by default.

    Raises:
        IntegrityError: where the files are not those that were audited.
        InputError: where a record is named by anything but a keyed hash, or a figure is not finite.
    """
    if not files:
        raise InputError("files", dict(files), "the model folder's files with their sha256")
    audited = evidence.subjects.get(AUDITED, {})
    if not audited:
        raise IntegrityError("the audit names no file of the audited model: nothing ties it to these; audit a folder")
    added = sorted(name for name in set(files) - set(audited) if not is_harmless(name))
    if added:
        raise IntegrityError(f"{added[0]}: was not there when the folder was audited: audit it again")
    for name, digest in audited.items():
        if not name.startswith(".") and files.get(name) != digest:  # hidden files are no part of the folder's hashes
            raise IntegrityError(f"{name}: is not the file that was audited: audit the folder again")
    for item in evidence.measurements:
        for score in item.scores:
            if not (_HASH.fullmatch(score.record) and _HASH.fullmatch(score.group)):
                raise InputError(
                    "record", f"a name in {item.records}", "keyed hashes (see keyed_hash) of key and group"
                )
    settings = {**evidence.settings, **asdict(judgement.criteria), "require": list(judgement.criteria.require)}
    predicate = {
        "tool": {"name": "remanent", "versions": _versions()},
        "created": (created or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "verdict": judgement.verdict,
        "lines": [asdict(line) for line in judgement.lines],
        "method": dict(method or {}),
        "settings": settings,
        "conditions": [asdict(condition) for condition in evidence.conditions],
        "intervals": f"Each bound has a one-sided error of {judgement.criteria.alpha:g}; mean NLL by a cluster "
        "bootstrap over groups, whole answers by Wilson, their differences by Newcombe; measures by "
        "the percentiles of a cluster bootstrap, shares that are 0 or 1 throughout by Clopper and Pearson over groups.",
        "record_sets": record_sets(evidence),
        "evidence": evidence_table(evidence, judgement.criteria),
        "comparisons": comparisons(evidence, judgement.criteria),
        "measures": [asdict(item) for item in evidence.measures],
        "movement": {name: dict(values) for name, values in evidence.movement.items()},
        "lineage": {
            **{name: dict(found) for name, found in evidence.subjects.items() if name != AUDITED},
            **{name: dict(found) for name, found in (lineage or {}).items()},
        },
        "quantized": [dict(item) for item in quantized],
        "parent": None,
        "notes": list(judgement.notes),
        "limits": limits(evidence, quantized),
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": files[name]}} for name in sorted(files)],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    canonical_json(statement)
    return statement


def limits(evidence: Evidence, quantized: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """What the audit does not say, in plain words."""
    names = ", ".join(condition.name for condition in evidence.conditions)
    attacks = [condition.name for condition in evidence.conditions if condition.kind == "attack"]
    measured = {(item.subject, item.records) for item in evidence.measurements}
    said = [
        f"Tested at these conditions only: {names or 'none'}. Other quantizers, precisions, adapters, merges, prompts "
        "and decodings were not tested.",
        f"Attacks tried: {', '.join(attacks)}. A score holds for the attacks named; a stronger one may find more."
        if attacks
        else "No attack on the model was tried.",
        "Not finding knowledge under these tests is not proof that there is none.",
        "The scores are of the records asked and of the groups they were drawn from, not of other text.",
    ]
    if (AUDITED, FORGET) in measured:
        if (RETRAINED, FORGET) not in measured:
            said.append("No model retrained without the forgotten records was compared.")
        if (AUDITED, PARAPHRASED) not in measured:
            said.append("The forgotten records were not asked in other words.")
    unasked = [str(item["name"]) for item in quantized if item["audited_at"] is None]
    if unasked:
        said.append(f"Quantized files of this model that were not audited: {', '.join(unasked)}.")
    return [
        *said,
        "Copies, backups, earlier checkpoints and models derived from the original were not examined.",
        "The audit is to be repeated when the files are quantized in another way, fine-tuned or merged, or when a "
        "stronger attack is published.",
        "The signature proves who issued this statement and that it is unchanged; it does not prove that it is true.",
        "This is a report of measurements, not a legal assessment.",
    ]


def canonical_json(data: Any) -> bytes:
    """The one spelling of plain data: UTF-8, sorted keys, no spaces. Raises InputError where it is not plain data."""
    try:
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError("statement", str(error), "plain data with finite figures and valid text") from error


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
