"""Splits by group: the records of one author, person or document all go to the same side."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from remanent.data.record import Record
from remanent.errors import InputError

# What the certificate asks for: a method never receives the audit split, the stopping rule only the select split,
# and the control is never trained on.
RETAIN_SHARES: Mapping[str, float] = MappingProxyType({"train": 0.5, "select": 0.15, "audit": 0.35})
CONTROL_SHARES: Mapping[str, float] = MappingProxyType({"select": 0.25, "audit": 0.75})


def split_by_group(records: Sequence[Record], shares: Mapping[str, float], seed: int) -> dict[str, list[Record]]:
    """Split records so that no group is on two sides.

    Which side a group goes to follows from the names of the groups and the seed alone, not from the records' order,
    number or text. Shares count groups, by largest remainder; within a side the records keep their order.

    Args:
        records: the records to split.
        shares: name -> share of the groups, each in [0, 1], together 1. A share above 0 gets at least one group.
        seed: another seed gives another split.

    Raises:
        InputError: where shares do not add up to 1, or there are fewer groups than shares above 0.
    """
    _check(shares)
    groups = sorted({record.group for record in records}, key=lambda group: _rank(group, seed))
    wanted = [name for name, share in shares.items() if share > 0]
    if len(groups) < len(wanted):
        expected = f"at least {len(wanted)} groups, one for each of {', '.join(wanted)}"
        raise InputError("groups to split", len(groups), expected)
    side_of: dict[str, str] = {}
    start = 0
    for name, size in _sizes(len(groups), shares).items():
        side_of |= dict.fromkeys(groups[start : start + size], name)
        start += size
    sides: dict[str, list[Record]] = {name: [] for name in shares}
    for record in records:
        sides[side_of[record.group]].append(record)
    return sides


def _sizes(groups: int, shares: Mapping[str, float]) -> dict[str, int]:
    # Rounded to 9 digits so that 0.35 * 20 is 7 and not a hair below or above it.
    exact = {name: round(share * groups, 9) for name, share in shares.items()}
    sizes = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: sizes[name] - exact[name])
    for name in by_remainder[: groups - sum(sizes.values())]:
        sizes[name] += 1
    for name, share in shares.items():
        if share > 0 and sizes[name] == 0:
            sizes[max(sizes, key=lambda other: sizes[other])] -= 1
            sizes[name] = 1
    return sizes


def _rank(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()


def _check(shares: Mapping[str, float]) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"share '{name}'", share, "a number in [0, 1]")
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise InputError("shares", dict(shares), "shares that add up to 1")
