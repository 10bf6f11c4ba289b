"""Verify: a certificate, those above it, and rows of its evidence measured again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remanent.auditing.chain import Link, walk
from remanent.auditing.signing import load_public_key
from remanent.auditing.verify import Verification, open_certificate
from remanent.auditing.verify import verify as verify_one
from remanent.data.record import Record
from remanent.jobs.progress import Interface
from remanent.jobs.rerun import TOLERANCE, Row
from remanent.jobs.rerun import rerun as measure_again

_SEEDS = 2**32


@dataclass(frozen=True)
class Verified:
    """What came of it.

    Args:
        own: of the certificate itself.
        chain: of those above it, the nearest first; None where they were not asked for.
        rerun: the rows that were measured again; None where none were.
    """

    own: Verification
    chain: tuple[Link, ...] | None = None
    rerun: tuple[Row, ...] | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with any part that was asked for."""
        wrong = any(link.problems for link in self.chain or ()) or any(row.problem for row in self.rerun or ())
        return self.own.ok and not wrong

    @property
    def verdict(self) -> str | None:
        """The verdict that the certificate holds."""
        return self.own.verdict

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with any part that was asked for; () where it is good."""
        chain = [f"{name}: {problem}" for name, link in self._links() for problem in link.problems]
        rows = [f"{_figures(row)}: {row.problem}" for row in self.rerun or () if row.problem]
        return (*self.own.problems, *chain, *rows)

    def sentences(self) -> Iterator[str]:
        """It all, for a person."""
        for problem in self.problems:
            yield f"Problem: {problem}"
        for note in self.own.notes:
            yield f"Note: {note}"
        for name, link in self._links():
            if not link.problems:
                yield f"Good: {name}: {link.verdict}"
        if self.chain == () and self.own.ok:
            yield "The certificate names no parent."
        for row in self.rerun or ():
            if not row.problem:
                yield f"Good: {_figures(row)}"
        if self.ok:
            yield f"Good: signed by this key, unchanged, and about exactly these files. Verdict: {self.own.verdict}"
        else:
            yield "Not good: do not rely on this certificate for this model."

    def _links(self) -> Iterator[tuple[str, Link]]:
        for place, link in enumerate(self.chain or (), start=1):
            yield f"parent {place} ({link.sha256[:16]}, of the {link.of} model)", link


def _figures(row: Row) -> str:
    where = f"{row.records} at {row.condition}" + ("" if row.seed is None else f", seed {row.seed}")
    again = "" if row.measured is None else f", measured {row.measured:.4f}"
    return f"{where}: mean NLL certified {row.certified:.4f}{again} (tolerance {row.tolerance:g} nats)"


def verify(
    certificate: Path,
    model: Path,
    key: Path,
    *,
    chain: bool = False,
    parent_keys: Sequence[Path] = (),
    rerun: int | None = None,
    audit_file: Path | None = None,
    tolerance: float = TOLERANCE,
    seed: int | None = None,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
) -> Verified:
    """Verify a certificate. What needs it to be good is left out where it is not.

    Args:
        certificate: the file.
        model: the folder of the model that it should be about.
        key: the public key of whom one trusts.
        chain: verify the certificates above it.
        parent_keys: further keys that those may be signed with.
        rerun: how many random rows of the evidence are measured again.
        audit_file: the audit's settings; audit.yaml beside the certificate by default.
        tolerance: in nats; see `remanent.jobs.rerun`.
        seed: draws the rows; None draws one that nobody could know before.
        interface: where progress goes; None is silent.
        records: role -> records in place of the file's names.
    """
    own = verify_one(certificate, model, key)
    if not own.ok or own.statement is None:
        return Verified(own)
    links = None
    if chain:
        public = load_public_key(key)
        keys = [public, *map(load_public_key, parent_keys)]
        links = tuple(walk(certificate, open_certificate(certificate, public), keys))
    rows = None
    if rerun is not None:
        file = audit_file or certificate.parent / "audit.yaml"
        drawn = secrets.randbelow(_SEEDS) if seed is None else seed
        rows = tuple(
            measure_again(
                own.statement, model, file, rerun, drawn, tolerance=tolerance, interface=interface, records=records
            )
        )
    return Verified(own, links, rows)
