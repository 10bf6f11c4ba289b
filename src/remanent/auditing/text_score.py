"""One record's figures at one condition, of which measures of whole sets are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextScore:
    """One record's figures.

    Args:
        record: keyed hash of the record.
        group: keyed hash of its group.
        values: name -> figure, see `measures`; a name that is missing could not be measured on this record.
    """

    record: str
    group: str
    values: Mapping[str, float]
