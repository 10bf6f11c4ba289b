"""Does a certificate belong to these files, and did this key sign it? Nothing in the file is trusted before that.

Files that the certificate does not name: a loader may pick up more than weights (adapters, configuration, tokenizer
files, templates, code), so any extra file fails the verification, except what no loader reads: the certificate itself,
hidden files, `.md` files, licences and notices. Those are noted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from remanent.auditing.evidence import Measure
from remanent.auditing.hashes import UNSAFE, is_harmless, is_inside, list_files
from remanent.auditing.judgement import Criteria, overall
from remanent.auditing.required_line import required_lines
from remanent.auditing.signing import envelope_bytes, load_public_key, open_envelope
from remanent.auditing.statement import PREDICATE_TYPE, STATEMENT_TYPE
from remanent.core.files import parse_json, sha256_file
from remanent.errors import InputError, IntegrityError

LARGEST = 64 * 2**20
Verdict = Literal["PASSED", "WARNED", "NOT ASSESSABLE", "FAILED"]


def _safe(name: str) -> str:
    path = PurePosixPath(name)
    plain = name.isprintable() and not any(character in name for character in UNSAFE)
    if not plain or path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise ValueError("must be a relative path without '..'")
    return name


def _exactly(expected: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value != expected:
            raise ValueError(f"must be {expected}")
        return value

    return check


class _Untrusted(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Digest(_Untrusted):
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Subject(_Untrusted):
    name: Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_safe)]
    digest: _Digest


class _Line(_Untrusted):
    name: str
    condition: str
    verdict: Verdict
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    detectable: float | None
    reason: str


class _Parent(_Untrusted):
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    of: str


class _Quantized(_Untrusted):
    name: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    audited_at: str | None


class _Predicate(_Untrusted):
    tool: dict[str, Any]
    created: str
    verdict: Verdict
    lines: list[_Line]
    method: dict[str, Any]
    settings: dict[str, Any]
    conditions: list[dict[str, Any]]
    intervals: str
    record_sets: list[dict[str, Any]]
    evidence: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    measures: list[dict[str, Any]] = []  # earlier certificates have none
    movement: dict[str, dict[str, float]]
    lineage: dict[str, dict[str, str]]
    quantized: list[_Quantized] = []
    parent: _Parent | None = None
    notes: list[str]
    limits: list[str]


class _Statement(_Untrusted):
    kind: Annotated[str, AfterValidator(_exactly(STATEMENT_TYPE))] = Field(alias="_type")
    subject: Annotated[list[_Subject], Field(min_length=1)]
    predicateType: Annotated[str, AfterValidator(_exactly(PREDICATE_TYPE))]
    predicate: _Predicate


@dataclass(frozen=True)
class Verification:
    """What a certificate is worth for a folder.

    Args:
        ok: whether the key signed it, unchanged, and it names exactly these files. It says nothing of the verdict:
            a certificate that reads FAILED can be verified as well as one that reads PASSED.
        problems: why not; () where it is.
        verdict: of the audit; None where the signature or the form is wrong, since then nothing in it can be relied on.
        statement: the content; None likewise.
        notes: files that the certificate does not name and that no loader reads.
    """

    ok: bool
    problems: tuple[str, ...]
    verdict: str | None = None
    statement: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A certificate that a key has signed, unchanged and of the right form.

    Args:
        sha256: of its file.
        statement: the content.
        checked: the same, typed.
        problems: what in it contradicts itself.
    """

    sha256: str
    statement: dict[str, Any]
    checked: _Statement
    problems: tuple[str, ...]


def open_certificate(path: Path, key: Ed25519PublicKey) -> Opened:
    """Open a certificate without looking at any model. Raises IntegrityError where it is not good."""
    raw = _read(path)
    envelope = parse_json(raw, "certificate")
    payload = open_envelope(envelope, key)
    if envelope_bytes(envelope) != raw:
        raise IntegrityError("the certificate file is not spelled as it was written")
    statement = parse_json(payload, "statement")
    try:
        checked = _Statement.model_validate(statement)
    except ValidationError as error:
        raise IntegrityError("; ".join(_worded(error))) from None
    predicate = checked.predicate
    problems = []
    if predicate.verdict != overall(line.verdict for line in predicate.lines):
        problems.append(f"the verdict {predicate.verdict} does not follow from the certificate's own lines")
    problems += _limits(predicate)
    return Opened(hashlib.sha256(raw).hexdigest(), statement, checked, tuple(problems))


def _limits(predicate: _Predicate) -> list[str]:
    """What of the declared limits on measures does not follow from the measures that the certificate itself holds."""
    required = predicate.settings.get("require", [])  # earlier certificates have none
    verdicts = {(line.name, line.condition): line.verdict for line in predicate.lines}
    try:
        asked = Criteria(require=required).require
        judged = required_lines([Measure(**item) for item in predicate.measures], asked)
    except (InputError, TypeError, ValueError, AttributeError) as error:
        return [f"the declared limits on measures cannot be judged again: {error}"]
    return [
        f"the line {line.name} does not follow from the certificate's own measures"
        for line in judged
        if verdicts.get((line.name, line.condition)) != line.verdict
    ]


def verify(
    certificate_path: str | os.PathLike[str],
    model_folder: str | os.PathLike[str],
    public_key_path: str | os.PathLike[str],
) -> Verification:
    """Check a certificate's signature, form and files.

    Args:
        certificate_path: the DSSE envelope.
        model_folder: the files it should be about.
        public_key_path: the key of whom you trust, from them and not from beside the certificate.

    Raises:
        InputError: where the key cannot be read or the model folder is none. Whatever is wrong with the certificate
            or with the files is a problem in the result, not an error.
    """
    key = load_public_key(public_key_path)
    certificate, folder = Path(certificate_path), Path(model_folder)
    try:
        opened = open_certificate(certificate, key)
    except IntegrityError as error:
        return Verification(False, (str(error),))
    found, notes = _files(opened.checked.subject, folder, certificate)
    problems = (*opened.problems, *found)
    return Verification(not problems, problems, opened.checked.predicate.verdict, opened.statement, tuple(notes))


def _files(subjects: list[_Subject], folder: Path, certificate: Path) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    notes: list[str] = []
    named = {subject.name: subject.digest.sha256 for subject in subjects}
    if len(named) != len(subjects):
        problems.append("the certificate names a file twice")
    try:
        present = list_files(folder)
    except IntegrityError as error:
        return [*problems, str(error)], notes
    for name, digest in named.items():
        try:
            problem = _differs(folder, name, digest)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem:
            problems.append(f"{name}: {problem}")
    for name in present:
        if name in named or os.path.realpath(folder / name) == os.path.realpath(certificate):
            continue
        if is_harmless(name):
            notes.append(f"{name}: is not named in the certificate")
        else:
            problems.append(f"{name}: is not named in the certificate, and a loader might read it")
    return problems, notes


def _differs(folder: Path, name: str, digest: str) -> str:
    path = folder / name
    if not is_inside(folder, path):
        return "leads out of the model folder"
    if not path.is_file():
        return "is missing"
    return "" if sha256_file(path) == digest else "is not the file that was certified (its sha256 differs)"


def _read(certificate: Path) -> bytes:
    try:
        if certificate.stat().st_size > LARGEST:
            raise IntegrityError(f"{certificate}: is larger than {LARGEST // 2**20} MiB, which no certificate is")
        return certificate.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{certificate}: cannot be read: {error.strerror}") from error


def _worded(error: ValidationError) -> list[str]:
    """Pydantic's findings, without the values: they are not ours to repeat."""
    return [f"statement, {'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors()[:20]]
