"""Certificates in a chain: each names its parent's certificate by SHA-256, and is about a model made from the parent's.

A parent lies beside the certificate that names it, as `parents/<sha256>.json`, and so do the parents of the parent.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from remanent.auditing.evidence import AUDITED
from remanent.auditing.verify import Opened, open_certificate
from remanent.core.files import write_atomic
from remanent.errors import InputError, IntegrityError

PARENTS = "parents"
LONGEST = 1000  # links; a hash cannot come round to itself, but a folder can be large
_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class Link:
    """One certificate above another.

    Args:
        sha256: of its file, as the certificate below names it.
        of: which model of the certificate below it is about: "original", "audited", "base" ...
        verdict: that it holds; None where it cannot be relied on.
        problems: why not; () where it holds.
    """

    sha256: str
    of: str
    verdict: str | None
    problems: tuple[str, ...] = ()


def parent_file(certificate: Path, sha256: str) -> Path:
    """Where a certificate's parent lies."""
    return certificate.parent / PARENTS / f"{sha256}.json"


def walk(certificate: Path, opened: Opened, keys: Sequence[Ed25519PublicKey]) -> list[Link]:
    """The certificates above one that was opened, the nearest first; it ends at the first that does not hold.

    Args:
        certificate: the certificate's file, beside which its parents lie.
        opened: what it says.
        keys: of whom the signatures are taken; each parent must be signed by one of them.
    """
    links: list[Link] = []
    below = opened.statement
    while below["predicate"].get("parent") and len(links) < LONGEST:
        named = below["predicate"]["parent"]
        file = parent_file(certificate, named["sha256"])
        try:
            above = open_parent(file, named["sha256"], keys)
        except IntegrityError as error:
            return [*links, Link(named["sha256"], named["of"], None, (str(error),))]
        problems = list(above.problems)
        if related(above.statement, below) != named["of"]:
            problems.append(f"it is not about the files that the certificate below it names as '{named['of']}'")
        verdict = above.statement["predicate"]["verdict"]
        links.append(Link(named["sha256"], named["of"], verdict, tuple(problems)))
        if problems:
            return links
        below = above.statement
    if below["predicate"].get("parent"):
        named = below["predicate"]["parent"]
        links.append(Link(named["sha256"], named["of"], None, (f"it was not looked at: the {LONGEST + 1}th above",)))
    return links


def open_parent(file: Path, sha256: str | None, keys: Sequence[Ed25519PublicKey]) -> Opened:
    """Open a certificate that one of the keys has signed. Raises IntegrityError where none has, or it is another."""
    reasons = []
    for key in keys:
        try:
            opened = open_certificate(file, key)
        except IntegrityError as error:
            reasons.append(str(error))
            continue
        if sha256 is not None and opened.sha256 != sha256:
            raise IntegrityError(f"{file.name}: is not the certificate that was named (its sha256 differs)")
        return opened
    raise IntegrityError(f"{file.name}: {reasons[0] if reasons else 'no key was given'}")


def related(parent: Mapping[str, Any], child: Mapping[str, Any]) -> str | None:
    """Which of the child's models the parent's certificate is about: all its weights files are among that one's."""
    weights = {item["name"]: item["digest"]["sha256"] for item in parent["subject"] if item["name"].endswith(_WEIGHTS)}
    own = {item["name"]: item["digest"]["sha256"] for item in child["subject"]}
    for name, files in {**child["predicate"]["lineage"], AUDITED: own}.items():
        if weights and all(files.get(file) == digest for file, digest in weights.items()):
            return str(name)
    return None


def adopt(parent: Path, opened: Opened, statement: dict[str, Any], certificate: Path) -> None:
    """Name a parent in a statement that is still to be signed, and put it and its own parents beside it.

    Args:
        parent: the parent's file.
        opened: what it says.
        statement: the child's; its predicate gets "parent".
        certificate: where the child will lie.

    Raises:
        InputError: where the parent is about none of the models that the child names.
        IntegrityError: where a parent of the parent is not beside it.
    """
    name_parent(opened, statement, parent)
    copies = {opened.sha256: parent}
    above: Any = opened.statement["predicate"].get("parent")
    while above and len(copies) < LONGEST:
        file = parent_file(parent, above["sha256"])
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != above["sha256"]:
            raise IntegrityError(f"{file}: is not there, or not the certificate that the chain names")
        copies[above["sha256"]] = file
        above = _named_above(file)
    for sha256, file in copies.items():
        put_beside(certificate, sha256, file)


def name_parent(opened: Opened, statement: dict[str, Any], parent: Path) -> None:
    """Name a parent in a statement that is still to be signed. Raises InputError as `adopt`."""
    of = related(opened.statement, statement)
    if of is None:
        names = ", ".join([*statement["predicate"]["lineage"], AUDITED])
        raise InputError("parent", str(parent), f"a certificate about the weights of one of the models here: {names}")
    statement["predicate"]["parent"] = {"sha256": opened.sha256, "of": of}


def put_beside(certificate: Path, sha256: str, file: Path) -> None:
    """Copy a certificate to where another finds it as a parent of its own."""
    target = parent_file(certificate, sha256)
    target.parent.mkdir(exist_ok=True)
    if not target.is_file():
        write_atomic(target, file.read_bytes())


def _named_above(file: Path) -> Any:
    """What an ancestor names as its parent; its signature is checked where the chain is verified."""
    try:
        payload = json.loads(file.read_bytes())["payload"]
        return json.loads(base64.b64decode(payload))["predicate"].get("parent")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file}: is not a certificate") from error
