"""MUSE's scalability and sustainability: its figures of several audits in turn, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remanent.auditing.evidence import AUDITED, Evidence
from remanent.auditing.measure_names import KNOWLEDGE, VERBATIM
from remanent.auditing.muse import series


@dataclass(frozen=True)
class MuseTable:
    """MUSE's figures at one condition, a row for each audit.

    Args:
        condition: name of the condition.
        rows: what an audit is called, and its row of `auditing.muse.series`.
    """

    condition: str
    rows: tuple[tuple[str, Mapping[str, float | None]], ...]


def sustainability(audits: Sequence[tuple[str, Evidence]]) -> tuple[MuseTable, ...]:
    """A table for each condition at which one of them made MUSE's measures; empty where none did.

    Args:
        audits: of one model after ever more requests, each with what it is called, in order.
    """
    conditions = dict.fromkeys(
        item.condition
        for _, evidence in audits
        for item in evidence.measures
        if item.subject == AUDITED and item.name in (VERBATIM, KNOWLEDGE)
    )
    names = [name for name, _ in audits]
    found = [evidence for _, evidence in audits]
    return tuple(MuseTable(at, tuple(zip(names, series(found, at), strict=True))) for at in conditions)


def scalability(audits: Sequence[tuple[str, Evidence]]) -> tuple[MuseTable, ...]:
    """The same of models that each come from the original, the smallest forget set first; empty where the forget sets
    are all of one size, or one is not known.

    Args:
        audits: of each model, with what it is called.
    """
    sizes = [row["forgotten"] for row in series([evidence for _, evidence in audits])]
    if None in sizes or len(set(sizes)) < 2:
        return ()
    order = sorted(range(len(audits)), key=lambda place: sizes[place] or 0.0)
    return sustainability([audits[place] for place in order])
